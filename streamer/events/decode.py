"""Decode an ordinary event, fast."""

import msgspec

from schemas.records import INT64_MAX, Interaction

_decode = msgspec.json.Decoder(Interaction).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)


def decode(value: bytes) -> Interaction | None:
    """The event, or None for anything but an ordinary good one: then `explain` has the last word."""
    try:
        event = _decode(value)
    except _UNREADABLE:
        return None
    # An integer beyond 64 bits is a bad number, but the decoder has made a float of it.
    return event if event.value < INT64_MAX else None
