"""What each field of an event may be, and its normal form: the slow path's twin of `Interaction`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, get_args

from schemas.records import TYPES, Traffic
from streamer.events.parse import BadNumber
from streamer.events.timestamps import rfc3339_millis

WRONG: Final = object()
"""The normal form of a value that its field may not have."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field: what is allowed, in words, and the function that makes the normal form, or `WRONG`.

    A `BadNumber` where a number belongs stays one: it has a reason of its own, which comes after ``schema``.
    """

    allowed: str
    normal: Callable[[object], object]


def _text(longest: int) -> Callable[[object], object]:
    def normal(value: object) -> object:
        return value if isinstance(value, str) and 1 <= len(value) <= longest else WRONG

    return normal


def _one_of(*allowed: str) -> Callable[[object], object]:
    def normal(value: object) -> object:
        return value if isinstance(value, str) and value in allowed else WRONG

    return normal


def _or_null(normal: Callable[[object], object]) -> Callable[[object], object]:
    return lambda value: None if value is None else normal(value)


def _timestamp(value: object) -> object:
    if isinstance(value, str):
        millis = rfc3339_millis(value)
        return WRONG if millis is None or millis < 0 else millis
    whole = _whole(value)
    return WRONG if isinstance(whole, int) and whole < 0 else whole


def _schema_version(value: object) -> object:
    whole = _whole(value)
    return whole if whole == 1 or isinstance(whole, BadNumber) else WRONG


def _whole(value: object) -> object:
    """An integer, spelled with or without a zero fraction: JSON Schema makes no difference either."""
    if isinstance(value, float) and value.is_integer():
        return int(value) if -(2.0**63) <= value < 2.0**63 else BadNumber(repr(value))
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole or isinstance(value, BadNumber) else WRONG


def _amount(value: object) -> object:
    if isinstance(value, BadNumber):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    return WRONG


def _flag(value: object) -> object:
    return value if isinstance(value, bool) else WRONG


def _flat_object(value: object) -> object:
    return value if isinstance(value, dict) else WRONG


_TRAFFIC = get_args(Traffic)

FIELDS: Final = {
    "request_id": Field("text of 1 to 128 characters", _text(128)),
    "user_id": Field("text of 1 to 256 characters", _text(256)),
    "item_id": Field("text of 1 to 256 characters", _text(256)),
    "event_type": Field(f"one of {', '.join(TYPES)}", _one_of(*TYPES)),
    "timestamp": Field("milliseconds since 1970, >= 0, or RFC 3339 text", _timestamp),
    "value": Field("a number > 0", _amount),
    "tenant": Field("text of 1 to 256 characters, or null", _or_null(_text(256))),
    "consent": Field("true, false or null", _or_null(_flag)),
    "traffic": Field(f"one of {', '.join(_TRAFFIC)}, or null", _or_null(_one_of(*_TRAFFIC))),
    "schema_version": Field("1, or null", _or_null(_schema_version)),
    "context": Field("a flat object, or null", _or_null(_flat_object)),
}
REQUIRED: Final = ("request_id", "user_id", "item_id", "event_type", "timestamp")
