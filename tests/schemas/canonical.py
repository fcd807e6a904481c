"""One form for all the ways in which JSON Schema can say the same, so that two schemas can be compared."""

import json
from typing import Any

_APPLIES = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "array": ("items", "minItems", "maxItems"),
    "object": ("properties", "required", "additionalProperties"),
    "boolean": (),
    "null": (),
}
_KNOWN = {"type", "enum", "const", "anyOf", "$ref", "default", "$schema", "$id", "$defs"}
_PROSE = {"title", "description", "examples", "contentMediaType", "contentSchema"}


def canonical(schema: dict[str, Any]) -> list[Any]:
    """What the schema allows: alternatives in a fixed order, each a type with the keywords bearing on it."""
    return _alternatives(schema, schema.get("$defs", {}))


def default_of(schema: dict[str, Any]) -> Any:
    """The default that the schema states; no default and null are the same to a decoder."""
    return schema.get("default")


def _alternatives(schema: dict[str, Any], defs: dict[str, Any]) -> list[Any]:
    unknown = set(schema) - _KNOWN - _PROSE - {word for words in _APPLIES.values() for word in words}
    assert not unknown, f"the comparison does not understand {unknown}"
    if "$ref" in schema:
        return _alternatives(defs[schema["$ref"].removeprefix("#/$defs/")], defs)
    if "anyOf" in schema:
        found = [one for branch in schema["anyOf"] for one in _alternatives(branch, defs)]
    elif "enum" in schema:
        found = [["value", value] for value in schema["enum"]]
    elif "type" not in schema:
        return ["anything"]
    else:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        found = [[name, _keywords(name, schema, defs)] for name in types]
    # Null is one value whether it is called a type or a constant; and every integer is a number.
    found = [["null", {}] if one == ["value", None] else one for one in found]
    if ["number", {}] in found:
        found = [one for one in found if one[0] != "integer"]
    return sorted(found, key=json.dumps)


def _keywords(kind: str, schema: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    words = {word: schema[word] for word in _APPLIES[kind] if word in schema}
    if kind == "array":
        words["items"] = _alternatives(words.get("items", {}), defs)
    if kind == "object":
        extra = words.pop("additionalProperties", {})
        words["others"] = extra if isinstance(extra, bool) else _alternatives(extra, defs)
        words["required"] = sorted(words.get("required", []))
        words["properties"] = {
            name: [_alternatives(value, defs), default_of(value)] for name, value in words.get("properties", {}).items()
        }
    return words
