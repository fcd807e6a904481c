"""Records and events that tests start from; each call may change what matters to it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.records import Interaction, Policy
from streamer.events.explain import explain
from streamer.events.read import Reader
from streamer.events.verdicts import FieldError, Rejected

NOW = 1_732_160_641_000
EVENT: dict[str, Any] = {
    "request_id": "r-1",
    "user_id": "u-1",
    "item_id": "i-1",
    "event_type": "click",
    "timestamp": NOW - 1000,
}


@dataclass(frozen=True)
class FakeRecord:
    """A fetched record, as far as reading looks at it."""

    value: bytes | None
    key: bytes | None = b"u-1"
    headers: Sequence[tuple[str, bytes | None]] = ()
    timestamp: int = NOW
    partition: int = 0
    offset: int = 0


def text(**changes: object) -> bytes:
    """The good event as JSON, with changes; a change to None leaves the field out, `...` makes it null."""
    fields = {name: None if value is ... else value for name, value in (EVENT | changes).items() if value is not None}
    return json.dumps(fields).encode()


def raw(field: str, spelling: str) -> bytes:
    """The good event with one field spelled in JSON text as given."""
    return json.dumps(EVENT | {field: "@"}).replace('"@"', spelling).encode()


def event(**changes: Any) -> Interaction:
    """The good event decoded, with changes."""
    return Interaction(**(EVENT | changes))


def reader(**changes: Any) -> Reader:
    """A reader for all tenants."""
    settings: dict[str, Any] = {"tenant": None, "max_bytes": 65_536, "invalid_items": frozenset()}
    return Reader(Policy(), **(settings | changes))


def errors_of(value: bytes, headers: Sequence[tuple[str, bytes | None]] = ()) -> list[str]:
    """The errors of a bad value, each as ``path: message``."""
    verdict = explain(value, headers)
    assert isinstance(verdict, Rejected)
    return [str(error) for error in verdict.errors]


def rejected(verdict: object) -> tuple[FieldError, ...]:
    """The errors of a verdict that must be a rejection."""
    assert isinstance(verdict, Rejected), verdict
    return verdict.errors
