"""Unwrap an event from a CloudEvents 1.0 envelope, binary (Kafka headers) or structured (JSON)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from streamer.events.excerpt import excerpt
from streamer.events.verdicts import FieldError

Headers = Sequence[tuple[str, bytes | None]]

_STRUCTURED = "application/cloudevents+json"
_VERSION = "1.0"
# What an event that lacks a field takes from its envelope.
_FALLBACKS = {"request_id": "id", "timestamp": "time"}


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """The event as parsed, where it and its borrowed fields lie, and what is wrong with the envelope."""

    event: object
    path: str = "$"
    borrowed: dict[str, str] = field(default_factory=dict)
    errors: tuple[FieldError, ...] = ()

    def place(self, name: str) -> str:
        """Where in the record the event's field of this name lies."""
        return self.borrowed.get(name) or f"{self.path}.{name}"


def unwrap(value: object, headers: Headers) -> Unwrapped:
    """The event in this parsed value; a missing request id or timestamp is taken from the envelope."""
    named = dict(headers) if headers else {}
    if isinstance(value, dict) and ("specversion" in value or _is_structured(named)):
        return _structured(value)
    if "ce_specversion" in named:
        return _binary(value, named)
    return Unwrapped(value)


def _structured(envelope: dict[str, object]) -> Unwrapped:
    errors = _version_errors("$.specversion", envelope.get("specversion"))
    paths = {attribute: f"$.{attribute}" for attribute in _FALLBACKS.values()}
    return _borrow(envelope.get("data"), "$.data", envelope, paths, errors)


def _binary(value: object, headers: dict[str, bytes | None]) -> Unwrapped:
    paths = {attribute: f"header ce_{attribute}" for attribute in ("specversion", *_FALLBACKS.values())}
    attributes: dict[str, object] = {}
    errors: tuple[FieldError, ...] = ()
    for attribute, path in paths.items():
        raw = headers.get(f"ce_{attribute}")
        if raw is None:
            continue
        try:
            attributes[attribute] = raw.decode()
        except UnicodeDecodeError:
            errors = (*errors, FieldError(path, "must be UTF-8"))
    errors = (*_version_errors(paths["specversion"], attributes.get("specversion")), *errors)
    return _borrow(value, "$", attributes, paths, errors)


def _borrow(
    event: object,
    path: str,
    attributes: dict[str, object],
    paths: dict[str, str],
    errors: tuple[FieldError, ...],
) -> Unwrapped:
    if not isinstance(event, dict):
        return Unwrapped(event, path, errors=errors)
    wanted = {
        name: attribute for name, attribute in _FALLBACKS.items() if name not in event and attribute in attributes
    }
    filled = event | {name: attributes[attribute] for name, attribute in wanted.items()}
    return Unwrapped(filled, path, {name: paths[attribute] for name, attribute in wanted.items()}, errors)


def _version_errors(path: str, version: object) -> tuple[FieldError, ...]:
    if version == _VERSION:
        return ()
    if version is None:
        return (FieldError(path, "missing"),)
    return (FieldError(path, f'must be "{_VERSION}", got {excerpt(version)}'),)


def _is_structured(headers: dict[str, bytes | None]) -> bool:
    content_type = headers.get("content-type") or b""
    return content_type.split(b";")[0].strip().lower() == _STRUCTURED.encode()
