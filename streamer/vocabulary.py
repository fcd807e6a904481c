"""Which keys a settings model knows, what each allows, and how to speak of them without showing secrets."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pydantic import BaseModel

from schemas.records import POSITIVES, Policy

Keys = tuple[str, ...]

_HIDDEN: Final = "**********"
_SECRET_NAME = re.compile(r"pass|secret|token|credential|private", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_NAMES = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}
_SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


class Vocabulary:
    """The keys of a model whose fields are sections (models of plain fields) or a `Policy`."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._children: dict[Keys, list[str]] = {(): list(model.model_fields)}
        self._schemas: dict[Keys, dict[str, Any]] = {}
        for name, info in model.model_fields.items():
            if info.annotation is Policy:
                self._children[name,] = list(Policy.__struct_fields__)
                self._children[name, "weights"] = list(POSITIVES)
            elif isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
                properties = info.annotation.model_json_schema()["properties"]
                self._children[name,] = list(properties)
                self._schemas |= {(name, key): schema for key, schema in properties.items()}

    def leaves(self, above: Keys = ()) -> Iterator[Keys]:
        """The path of every setting."""
        for name in self._children[above]:
            path = (*above, name)
            if path in self._children:
                yield from self.leaves(path)
            else:
                yield path

    def allowed(self, path: Keys) -> str:
        """What the value at a path may be, in words."""
        if path in self._children:
            return f"a table of {', '.join(self._children[path])}"
        return _words(self._schemas.get(path, {}))

    def is_number(self, path: Keys) -> bool:
        """Whether a section's value at a path is a number, and no text."""
        return self._schemas.get(path, {}).get("type") in {"integer", "number"}

    def is_secret(self, path: Keys) -> bool:
        """Whether the value at a path, or at a misspelt one, must never be shown."""
        return bool(_SECRET_NAME.search(path[-1])) or "writeOnly" in str(self._schemas.get(path, ""))

    def show(self, path: Keys, value: object) -> str:
        """The value as a mistake or a listing shows it."""
        known = self._children.get(path[:-1], [])
        near = difflib.get_close_matches(path[-1].lower(), known, n=1)
        if self.is_secret(path) or (near and self.is_secret((*path[:-1], near[0]))):
            return _HIDDEN
        if isinstance(value, bool):
            return str(value).lower()
        text = f'"{value}"' if isinstance(value, str) else str(value)
        return _URL_PASSWORD.sub(_HIDDEN, text)

    def unknown(self, path: Keys) -> str:
        """What to say of a key that does not exist."""
        known = self._children.get(path[:-1], [])
        return f"is no setting{self.nearest(path[-1], known)}; known here: {', '.join(known)}"

    def nearest(self, name: str, known: Sequence[str]) -> str:
        """`; did you mean …?`, or nothing when no name is near."""
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        return f"; did you mean {near[0]}?" if near else ""


def _words(schema: dict[str, Any]) -> str:
    if "description" in schema:
        return str(schema["description"])
    if "anyOf" in schema:
        return " or ".join(_words(option) for option in schema["anyOf"] if option.get("type") != "null")
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    bounds = [f"{sign} {schema[name]}" for name, sign in _SIGNS.items() if name in schema]
    if schema.get("minLength"):
        bounds.append("that is not empty")
    return " ".join([_NAMES.get(schema.get("type", ""), "another value"), " and ".join(bounds)]).rstrip()


def line_of(text: str, path: Sequence[str]) -> int | None:
    """The line, from 1, where a TOML text sets the key at a path; None when it is not found."""
    wanted, table = list(path), list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            table = _dotted(header[1])
        elif assignment := re.match(r"""\s*([\w."'\-\s]+?)\s*=""", line):
            key = table + _dotted(assignment[1])
            # An inline table holds the keys below it on its own line.
            if key == wanted[: len(key)]:
                return number
    return None


def _dotted(text: str) -> list[str]:
    return [part.strip().strip("\"'") for part in text.split(".")]
