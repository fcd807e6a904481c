"""Parse a value as UTF-8 and as JSON, strictly; numbers that no event may hold are kept for later."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import isinf

from schemas.outcomes import Reason
from schemas.records import INT64_MAX
from streamer.events.verdicts import FieldError, Rejected

MAX_DEPTH = 64
"""Deeper nesting counts as not JSON: a fixed bound, so that no interpreter's own limit decides."""

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_NESTING = re.compile(r"[\[\]{}]")


@dataclass(frozen=True, slots=True)
class BadNumber:
    """A number that JSON text can spell but no event may hold: not finite, or an integer beyond 64 bits."""

    text: str


def parse(value: bytes | None) -> object:
    """The JSON value of these bytes, or a `Rejected`; of a key that comes twice the last one wins.

    Numbers that are not finite or do not fit 64 bits become `BadNumber`.
    """
    if not value:
        return _not_json("empty" if value is not None else "null")
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        return _rejected(Reason.NOT_UTF8, f"{error.reason} at byte {error.start}")
    for at in _lone_surrogates(text):
        return _rejected(Reason.NOT_UTF8, f"half of a surrogate pair at character {at}")
    if _too_deep(text):
        return _not_json(f"nested deeper than {MAX_DEPTH} levels")
    try:
        return json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=BadNumber)
    except json.JSONDecodeError as error:
        return _not_json(f"{error.msg} at character {error.pos}")


def _integer(text: str) -> int | BadNumber:
    # 20 characters hold every 64-bit integer. Converting takes quadratic time, so longer texts are not.
    if len(text) > 20:
        return BadNumber(text)
    number = int(text)
    return number if -INT64_MAX - 1 <= number <= INT64_MAX else BadNumber(text)


def _float(text: str) -> float | BadNumber:
    number = float(text)
    return BadNumber(text) if isinf(number) else number


def _lone_surrogates(text: str) -> Iterator[int]:
    """Where an escape spells half of a surrogate pair: text that UTF-8 cannot carry."""
    if "\\u" not in text:
        return
    pending: re.Match[str] | None = None
    for escape in _ESCAPE.finditer(text):
        unit = int(escape[1], 16) if escape[1] else 0
        is_low = 0xDC00 <= unit < 0xE000
        paired = pending is not None and is_low and pending.end() == escape.start()
        if pending is not None and not paired:
            yield pending.start()
        if is_low and not paired:
            yield escape.start()
        pending = escape if 0xD800 <= unit < 0xDC00 else None
    if pending is not None:
        yield pending.start()


def _too_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for bracket in _NESTING.finditer(_STRING.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def _not_json(message: str) -> Rejected:
    return _rejected(Reason.NOT_JSON, message)


def _rejected(reason: Reason, message: str) -> Rejected:
    return Rejected(reason, (FieldError("$", message),))
