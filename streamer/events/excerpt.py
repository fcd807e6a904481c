"""Quote a piece of a record in an error without spilling the record into logs and headers."""

import json

from streamer.events.parse import BadNumber

EXCERPT_CHARS = 64


def excerpt(value: object) -> str:
    """A JSON value in at most 64 characters; arrays and objects by their kind only."""
    if isinstance(value, BadNumber):
        return clip(value.text)
    if isinstance(value, str):
        # Escapes only lengthen a text, so what is cut off here would be cut off anyway.
        return clip(json.dumps(value[:EXCERPT_CHARS], ensure_ascii=False))
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    return clip(json.dumps(value))


def field_path(parent: str, name: str) -> str:
    """The JSON path of a field, with long or odd names quoted and cut."""
    if name.isidentifier() and len(name) <= EXCERPT_CHARS:
        return f"{parent}.{name}"
    return f"{parent}[{excerpt(name)}]"


def clip(text: str) -> str:
    """The text, or its beginning and an ellipsis, in at most 64 characters."""
    return text if len(text) <= EXCERPT_CHARS else f"{text[: EXCERPT_CHARS - 1]}…"
