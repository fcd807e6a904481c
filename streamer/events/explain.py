"""Read a value the slow, thorough way: every error with its JSON path, and the first reason that applies.

The fast path gives up on whatever is unusual and comes here, so this is the authority on what a good event
is. It also takes what the fast decoder does not know: RFC 3339 timestamps and CloudEvents.
"""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from schemas.outcomes import Reason
from schemas.records import TYPES, Interaction
from streamer.events.cloudevents import Headers, Unwrapped, unwrap
from streamer.events.excerpt import EXCERPT_CHARS, excerpt, field_path
from streamer.events.fields import FIELDS, REQUIRED, WRONG
from streamer.events.parse import BadNumber, parse
from streamer.events.verdicts import FieldError, Rejected

MAX_ERRORS = 50
"""Errors beyond this are counted, not listed: the list travels in one header."""


def explain(value: bytes | None, headers: Headers) -> Interaction | Rejected:
    """The event in normal form, or why there is none."""
    parsed = parse(value)
    if isinstance(parsed, Rejected):
        return parsed
    envelope = unwrap(parsed, headers)
    event = envelope.event
    if not isinstance(event, dict):
        wrong = FieldError(envelope.path, f"must be an object, got {excerpt(event)}")
        return _rejected(Reason.SCHEMA, [*envelope.errors, wrong])

    normal: dict[str, Any] = {name: FIELDS[name].normal(value) for name, value in event.items() if name in FIELDS}
    errors = [
        *envelope.errors,
        *_field_errors(event, normal, envelope),
        *_context_errors(event, envelope),
        *_unknown_fields(event, envelope),
    ]
    bad_numbers = list(_bad_numbers(normal, envelope))

    kind = event.get("event_type")
    if isinstance(kind, str) and kind not in TYPES:
        return _rejected(Reason.UNKNOWN_EVENT_TYPE, errors + bad_numbers)
    if errors:
        return _rejected(Reason.SCHEMA, errors + bad_numbers)
    if bad_numbers:
        return _rejected(Reason.BAD_NUMBER, bad_numbers)
    return Interaction(**normal)


def says_value(value: bytes | None, headers: Headers) -> bool:
    """Does a good event name its value itself? In the record a value left out looks like one of 1."""
    parsed = parse(value)
    event = None if isinstance(parsed, Rejected) else unwrap(parsed, headers).event
    return isinstance(event, dict) and "value" in event


def _field_errors(event: dict[str, Any], normal: dict[str, Any], envelope: Unwrapped) -> Iterator[FieldError]:
    for name in REQUIRED:
        if name not in event:
            yield FieldError(envelope.place(name), "missing")
    for name, value in normal.items():
        if value is WRONG:
            near = _did_you_mean(event[name], TYPES) if name == "event_type" else ""
            message = f"must be {FIELDS[name].allowed}, got {excerpt(event[name])}{near}"
            yield FieldError(envelope.place(name), message)


def _context_errors(event: dict[str, Any], envelope: Unwrapped) -> Iterator[FieldError]:
    context = event.get("context")
    if isinstance(context, dict):
        for name, value in context.items():
            if isinstance(value, dict | list):
                at = field_path(envelope.place("context"), name)
                yield FieldError(at, f"must be text, a number, a boolean or null, got {excerpt(value)}")


def _unknown_fields(event: dict[str, Any], envelope: Unwrapped) -> Iterator[FieldError]:
    unknown = [name for name in event if name not in FIELDS]
    for count, name in enumerate(unknown):
        # The search for the nearest name is slow, and a hostile record holds thousands of unknown ones.
        near = _did_you_mean(name, FIELDS) if count < MAX_ERRORS else ""
        yield FieldError(field_path(envelope.path, name), f"unknown field{near}")


def _bad_numbers(normal: dict[str, Any], envelope: Unwrapped) -> Iterator[FieldError]:
    """The bad numbers that stand where a number belongs; anywhere else they are of the wrong type."""
    for name, value in normal.items():
        if isinstance(value, BadNumber):
            yield _bad_number(envelope.place(name), value)
    context = normal.get("context")
    if isinstance(context, dict):
        for name, value in context.items():
            if isinstance(value, BadNumber):
                yield _bad_number(field_path(envelope.place("context"), name), value)


def _bad_number(path: str, number: BadNumber) -> FieldError:
    return FieldError(path, f"must be finite and, if an integer, fit 64 bits, got {excerpt(number)}")


def _did_you_mean(name: object, known: Iterable[str]) -> str:
    if not isinstance(name, str) or len(name) > EXCERPT_CHARS:
        return ""
    near = _nearest(name, tuple(known))
    return f"; did you mean {near}?" if near else ""


@lru_cache(1024)
def _nearest(name: str, known: tuple[str, ...]) -> str | None:
    """Cached: the search takes longer than all the rest, and a wrong producer repeats its mistake."""
    near = get_close_matches(name.lower(), known, n=1)
    return near[0] if near else None


def _rejected(reason: Reason, errors: list[FieldError]) -> Rejected:
    if len(errors) > MAX_ERRORS:
        errors = [*errors[:MAX_ERRORS], FieldError("$", f"and {len(errors) - MAX_ERRORS} more errors")]
    return Rejected(reason, tuple(errors))
