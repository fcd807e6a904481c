"""What becomes of one record, as far as that takes no user row; slow, plain, from the specification."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from tests.oracle.logs import LogRecord
from tests.oracle.rules import KNOWN_TYPES, POSITIVE, Rules

_INT64 = range(-(2**63), 2**63)
_MAX_DEPTH = 64
_ENVELOPE_TYPE = b"application/cloudevents+json"
_REQUIRED = ("request_id", "user_id", "item_id", "event_type", "timestamp")
_OPTIONAL = ("value", "tenant", "consent", "traffic", "schema_version", "context")


class Refusal(Exception):
    """The reason of a dead letter."""


class _Bad:
    """A number that JSON can spell and no event may hold."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict so far.

    Attributes:
        refused: a dead letter's reason that stands whatever the row says.
        event: else the event in normal form.
        withheld: a reason that counts only after wrong_partition was ruled out ("" for none).
    """

    refused: str = ""
    event: dict[str, Any] | None = None
    withheld: str = ""


def judge(record: LogRecord, rules: Rules) -> Judged:
    """The verdict on one record."""
    try:
        event = _read(record, rules)
    except Refusal as refusal:
        return Judged(refused=str(refusal))
    if record.key != event["user_id"].encode():
        return Judged(refused="key_mismatch")
    return Judged(event=event, withheld=_withheld(event, record, rules))


def _withheld(event: dict[str, Any], record: LogRecord, rules: Rules) -> str:
    tenant = event.get("tenant")
    tests = [
        ("future", event["timestamp"] > record.timestamp + rules.future_ms),
        ("no_consent", event.get("consent") is False),
        ("bot", event.get("traffic") == "bot"),
        ("internal", event.get("traffic") == "internal"),
        ("wrong_tenant", rules.tenant is not None and tenant != rules.tenant),
        ("invalid_item", event["item_id"] in rules.invalid_items),
        ("set_aside", event["event_type"] == "report" or _unrated(event, rules)),
    ]
    return next((reason for reason, applies in tests if applies), "")


def _unrated(event: dict[str, Any], rules: Rules) -> bool:
    """Where values are ratings, a positive event without one says nothing."""
    return rules.feedback == "explicit" and event["event_type"] in POSITIVE and "value" not in event


def _read(record: LogRecord, rules: Rules) -> dict[str, Any]:
    value = record.value
    if value is not None and len(value) > rules.max_bytes:
        raise Refusal("too_large")
    event = _unwrap(_parse(value), dict(record.headers))
    if not isinstance(event, dict):
        raise Refusal("schema")
    kind = event.get("event_type")
    if isinstance(kind, str) and kind not in KNOWN_TYPES:
        raise Refusal("unknown_event_type")
    normal = _normal(event)
    context = normal.get("context") or {}
    if any(isinstance(part, _Bad) for part in (*normal.values(), *context.values())):
        raise Refusal("bad_number")
    return normal


def _parse(value: bytes | None) -> object:
    if not value:
        raise Refusal("not_json")
    try:
        text = value.decode("utf-8", "strict")
    except UnicodeDecodeError:
        raise Refusal("not_utf8") from None
    if _half_surrogate(text):
        raise Refusal("not_utf8")
    if _depth(text) > _MAX_DEPTH:
        raise Refusal("not_json")
    try:
        return json.loads(text, parse_constant=lambda _: _Bad(), parse_int=_integer, parse_float=_float)
    except ValueError:
        raise Refusal("not_json") from None


def _integer(text: str) -> object:
    if len(text) > 25:
        return _Bad()
    return int(text) if int(text) in _INT64 else _Bad()


def _float(text: str) -> object:
    return _Bad() if math.isinf(float(text)) else float(text)


def _half_surrogate(text: str) -> bool:
    escapes = re.sub(r"\\[^u]", "", text)
    whole = re.sub(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}", "", escapes)
    return re.search(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}", whole) is not None


def _depth(text: str) -> int:
    depth = deepest = 0
    for mark in re.sub(r'"(?:[^"\\]|\\.)*"?', "", text):
        depth += (mark in "[{") - (mark in "]}")
        deepest = max(deepest, depth)
    return deepest


def _unwrap(parsed: object, headers: dict[str, bytes | None]) -> object:
    """The event inside a CloudEvents envelope, structured or binary; anything else as it is."""
    content_type = (headers.get("content-type") or b"").split(b";")[0].strip().lower()
    if isinstance(parsed, dict) and ("specversion" in parsed or content_type == _ENVELOPE_TYPE):
        version, attributes, event = parsed.get("specversion"), parsed, parsed.get("data")
    elif "ce_specversion" in headers:
        raw = {name[3:]: content for name, content in headers.items() if name.startswith("ce_")}
        try:
            attributes = {name: content.decode() for name, content in raw.items() if content is not None}
        except UnicodeDecodeError:
            raise Refusal("schema") from None
        version, event = attributes.get("specversion"), parsed
    else:
        return parsed
    if not isinstance(event, dict):
        raise Refusal("schema")
    if version != "1.0" and event.get("event_type") in KNOWN_TYPES:
        raise Refusal("schema")
    filled = dict(event)
    for name, attribute in (("request_id", "id"), ("timestamp", "time")):
        if name not in event and attribute in attributes:
            filled[name] = attributes[attribute]
    return filled


def _normal(event: dict[str, Any]) -> dict[str, Any]:
    """Every field in its normal form; a bad number stays one. Refuses whatever the schema refuses."""
    if any(name not in event for name in _REQUIRED) or set(event) - {*_REQUIRED, *_OPTIONAL}:
        raise Refusal("schema")
    normal: dict[str, Any] = {
        "request_id": _text(event["request_id"], 128),
        "user_id": _text(event["user_id"], 256),
        "item_id": _text(event["item_id"], 256),
        "event_type": _text(event["event_type"], 32),
        "timestamp": _time(event["timestamp"]),
    }
    if "value" in event:
        normal["value"] = _positive(event["value"])
    if event.get("tenant") is not None:
        normal["tenant"] = _text(event["tenant"], 256)
    if event.get("consent") is not None:
        normal["consent"] = _require(event["consent"], isinstance(event["consent"], bool))
    if event.get("traffic") is not None:
        normal["traffic"] = _require(event["traffic"], event["traffic"] in ("human", "bot", "internal"))
    if event.get("schema_version") is not None:
        version = _whole(event["schema_version"])
        normal["schema_version"] = _require(version, isinstance(version, _Bad) or version == 1)
    context = event.get("context")
    if context is not None:
        flat = isinstance(context, dict) and not any(isinstance(part, dict | list) for part in context.values())
        normal["context"] = _require(context, flat)
    return normal


def _require(value: Any, good: bool) -> Any:
    if not good:
        raise Refusal("schema")
    return value


def _text(value: object, longest: int) -> object:
    return _require(value, isinstance(value, str) and 1 <= len(value) <= longest)


def _whole(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value) if int(value) in _INT64 else _Bad()
    return _require(value, isinstance(value, _Bad) or (isinstance(value, int) and not isinstance(value, bool)))


def _positive(value: object) -> object:
    if isinstance(value, _Bad):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    _require(value, number and value > 0)  # type: ignore[operator]  # a number by then
    return float(value)  # type: ignore[arg-type]  # a number by then


def _time(value: object) -> object:
    if isinstance(value, str):
        return _rfc3339(value)
    whole = _whole(value)
    return _require(whole, isinstance(whole, _Bad) or (isinstance(whole, int) and whole >= 0))


def _rfc3339(text: str) -> int:
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)[Tt](\d\d):(\d\d):(\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", text, re.ASCII)
    if match is None:
        raise Refusal("schema")
    day, hour, minute, second, fraction, zone = match.groups()
    try:
        # Sixty seconds are a leap second: the next minute begins.
        base = datetime.fromisoformat(f"{day}T{hour}:{minute}:00").replace(tzinfo=_zone(zone))
        _require(second, int(second) <= 60)
    except ValueError:
        raise Refusal("schema") from None
    seconds = (base - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1) + int(second)
    millis = seconds * 1000 + int((fraction or ".0")[1:4].ljust(3, "0"))
    return int(_require(millis, millis >= 0))


def _zone(text: str) -> timezone:
    if text in "Zz":
        return UTC
    hours, minutes = int(text[1:3]), int(text[4:6])
    if hours > 23 or minutes > 59:
        raise ValueError(text)
    return timezone((1 if text[0] == "+" else -1) * timedelta(hours=hours, minutes=minutes))
