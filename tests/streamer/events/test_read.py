"""The contract's decisions that need no row: each reason, and the order in which they are taken."""

import gzip
import json
from typing import Any

import pytest

from schemas.outcomes import Reason
from schemas.records import Interaction
from streamer.events.verdicts import Filtered, Rejected
from tests.streamer.events.samples import EVENT, NOW, FakeRecord, event, raw, reader, rejected, text

DEEP = b"[" * 100_000 + b"]" * 100_000

REJECTED: list[tuple[str, bytes | None, Reason]] = [
    ("a byte too many", b'"' + b"x" * 65_535 + b'"', Reason.TOO_LARGE),
    ("megabytes", b"x" * 10_000_000, Reason.TOO_LARGE),
    ("nested 100,000 deep, over the size", DEEP, Reason.TOO_LARGE),
    ("invalid UTF-8", text().replace(b"i-1", b"i-\xff"), Reason.NOT_UTF8),
    ("invalid UTF-8 in an unknown field", b'{"x": "\xff"}', Reason.NOT_UTF8),
    ("invalid UTF-8 after the end", text() + b"\xff", Reason.NOT_UTF8),
    ("UTF-8 of a surrogate", text().replace(b"i-1", b"\xed\xa0\x80"), Reason.NOT_UTF8),
    ("lone high surrogate escape", raw("item_id", r'"\ud800"'), Reason.NOT_UTF8),
    ("lone low surrogate escape", raw("item_id", r'"\uDC00x"'), Reason.NOT_UTF8),
    ("surrogates the wrong way round", raw("item_id", r'"\udc00\ud800"'), Reason.NOT_UTF8),
    ("gzip", gzip.compress(text()), Reason.NOT_UTF8),
    ("UTF-16", text().decode().encode("utf-16"), Reason.NOT_UTF8),
    ("null", None, Reason.NOT_JSON),
    ("empty", b"", Reason.NOT_JSON),
    ("blank", b" \n", Reason.NOT_JSON),
    ("words", b"hello", Reason.NOT_JSON),
    ("cut off", text()[:-1], Reason.NOT_JSON),
    ("two values", text() + text(), Reason.NOT_JSON),
    ("byte order mark", b"\xef\xbb\xbf" + text(), Reason.NOT_JSON),
    ("zero bytes", b"\0\0\0\0", Reason.NOT_JSON),
    ("single quotes", text().replace(b'"', b"'"), Reason.NOT_JSON),
    ("control character in a string", raw("item_id", '"a\tb"'), Reason.NOT_JSON),
    ("number with a leading zero", raw("value", "01"), Reason.NOT_JSON),
    ("nested 30,000 deep", DEEP[70_000:130_000], Reason.NOT_JSON),
    ("nested deep in a field", raw("item_id", "[" * 65 + "]" * 65), Reason.NOT_JSON),
    ("deep and never closed", b'{"a":' * 10_000, Reason.NOT_JSON),
    ("unknown type", text(event_type="clik"), Reason.UNKNOWN_EVENT_TYPE),
    ("empty type", text(event_type=""), Reason.UNKNOWN_EVENT_TYPE),
    ("unknown type of a long name", text(event_type="x" * 60_000), Reason.UNKNOWN_EVENT_TYPE),
    ("an array", b"[]", Reason.SCHEMA),
    ("a string", b'"click"', Reason.SCHEMA),
    ("JSON null", b"null", Reason.SCHEMA),
    ("a number that is not one", b"NaN", Reason.SCHEMA),
    ("an empty object", b"{}", Reason.SCHEMA),
    ("no request id", text(request_id=None), Reason.SCHEMA),
    ("no type", text(event_type=None), Reason.SCHEMA),
    ("type is a number", text(event_type=3), Reason.SCHEMA),
    ("type is an array", text(event_type=["click"]), Reason.SCHEMA),
    ("empty item", text(item_id=""), Reason.SCHEMA),
    ("long item", text(item_id="x" * 257), Reason.SCHEMA),
    ("long request id", text(request_id="x" * 129), Reason.SCHEMA),
    ("item is a number", text(item_id=7), Reason.SCHEMA),
    ("item is a bad number", raw("item_id", "1e999"), Reason.SCHEMA),
    ("value 0", text(value=0), Reason.SCHEMA),
    ("value below 0", text(value=-1), Reason.SCHEMA),
    ("value underflows to 0", raw("value", "1e-999"), Reason.SCHEMA),
    ("value is a boolean", text(value=True), Reason.SCHEMA),
    ("value is text", text(value="1"), Reason.SCHEMA),
    ("value is null", text(value=...), Reason.SCHEMA),
    ("timestamp is a boolean", text(timestamp=True), Reason.SCHEMA),
    ("timestamp before 1970", text(timestamp=-1), Reason.SCHEMA),
    ("timestamp with a fraction", text(timestamp=NOW + 0.5), Reason.SCHEMA),
    ("timestamp is no RFC 3339", text(timestamp="yesterday"), Reason.SCHEMA),
    ("timestamp without an offset", text(timestamp="2024-11-21T03:44:00"), Reason.SCHEMA),
    ("timestamp text before 1970", text(timestamp="1969-12-31T23:59:59Z"), Reason.SCHEMA),
    ("consent is a number", text(consent=1), Reason.SCHEMA),
    ("unknown traffic", text(traffic="robot"), Reason.SCHEMA),
    ("traffic is an object", text(traffic={}), Reason.SCHEMA),
    ("empty tenant", text(tenant=""), Reason.SCHEMA),
    ("another version", text(schema_version=2), Reason.SCHEMA),
    ("version is a boolean", text(schema_version=True), Reason.SCHEMA),
    ("context is an array", text(context=[]), Reason.SCHEMA),
    ("context is nested", text(context={"a": {"b": 1}}), Reason.SCHEMA),
    ("unknown field", text(colour="red"), Reason.SCHEMA),
    ("field in capitals", text(VALUE=1), Reason.SCHEMA),
    ("value NaN", raw("value", "NaN"), Reason.BAD_NUMBER),
    ("value Infinity", raw("value", "Infinity"), Reason.BAD_NUMBER),
    ("value -Infinity", raw("value", "-Infinity"), Reason.BAD_NUMBER),
    ("value 1e999", raw("value", "1e999"), Reason.BAD_NUMBER),
    ("value -1e999", raw("value", "-1e999"), Reason.BAD_NUMBER),
    ("value 2^63", text(value=2**63), Reason.BAD_NUMBER),
    ("value 2^64", text(value=2**64), Reason.BAD_NUMBER),
    ("value of 5,000 digits", raw("value", "9" * 5000), Reason.BAD_NUMBER),
    ("timestamp NaN", raw("timestamp", "NaN"), Reason.BAD_NUMBER),
    ("timestamp 2^63", text(timestamp=2**63), Reason.BAD_NUMBER),
    ("timestamp below -2^63", text(timestamp=-(2**63) - 1), Reason.BAD_NUMBER),
    ("timestamp 1e30", raw("timestamp", "1e30"), Reason.BAD_NUMBER),
    ("timestamp of 5,000 digits", raw("timestamp", "-" + "9" * 5000), Reason.BAD_NUMBER),
    ("version of 5,000 digits", raw("schema_version", "1" * 5000), Reason.BAD_NUMBER),
    ("bad number in the context", raw("context", '{"x": Infinity}'), Reason.BAD_NUMBER),
    ("big integer in the context", raw("context", '{"x": 9223372036854775808}'), Reason.BAD_NUMBER),
    ("another user", text(user_id="u-2"), Reason.KEY_MISMATCH),
    ("other Unicode form", text(user_id="u-1\u0301"), Reason.KEY_MISMATCH),
    ("future", text(timestamp=NOW + 300_001), Reason.FUTURE),
    ("far future", text(timestamp=2**63 - 1), Reason.FUTURE),
]


@pytest.mark.parametrize(("value", "reason"), [case[1:] for case in REJECTED], ids=[c[0] for c in REJECTED])
def test_each_fault_has_its_reason(value: bytes | None, reason: Reason) -> None:
    """A bad record is rejected for its reason, with at least one error, none of them long."""
    verdict = reader().read(FakeRecord(value))
    errors = rejected(verdict)
    assert isinstance(verdict, Rejected)
    assert verdict.reason is reason
    assert errors
    assert all(len(error.path) < 100 and len(error.message) < 250 for error in errors)


def test_every_stateless_reason_has_a_case() -> None:
    """The table forgets none of the reasons that reading can give."""
    by_the_step = {Reason.WRONG_PARTITION}
    tested = {reason for _, _, reason in REJECTED}
    filters = set(list(Reason)[list(Reason).index(Reason.NO_CONSENT) :])
    assert tested == set(Reason) - by_the_step - filters


@pytest.mark.parametrize("key", [None, b"", b"u-2", b"u-1 ", b"\xff", b'"u-1"'])
def test_the_key_must_be_the_user_id(key: bytes | None) -> None:
    """Any other key is a mismatch, a null key too."""
    verdict = reader().read(FakeRecord(text(), key=key))
    assert isinstance(verdict, Rejected)
    assert verdict.reason is Reason.KEY_MISMATCH


# What makes a good event end with this reason; applied together, the first in the list must win.
FAULTS: list[tuple[Reason, dict[str, Any]]] = [
    (Reason.UNKNOWN_EVENT_TYPE, {"event_type": "clik"}),
    (Reason.SCHEMA, {"item_id": ""}),
    (Reason.BAD_NUMBER, {"value": float("nan")}),
    (Reason.KEY_MISMATCH, {"user_id": "u-2"}),
    (Reason.FUTURE, {"timestamp": NOW + 10**9}),
    (Reason.NO_CONSENT, {"consent": False}),
    (Reason.BOT, {"traffic": "bot"}),
    (Reason.WRONG_TENANT, {"tenant": "other"}),
    (Reason.INVALID_ITEM, {"item_id": "banned"}),
    (Reason.SET_ASIDE, {"event_type": "report"}),
]


@pytest.mark.parametrize("first", range(len(FAULTS)), ids=[reason.value for reason, _ in FAULTS])
def test_the_first_reason_wins_over_all_that_follow(first: int) -> None:
    """An event with every fault from one on ends with that one."""
    changes: dict[str, Any] = {"tenant": "shop"}
    for _, change in reversed(FAULTS[first:]):
        changes |= change
    verdict = reader(tenant="shop", invalid_items={"banned"}).read(FakeRecord(text(**changes)))
    assert isinstance(verdict, Rejected | Filtered)
    assert verdict.reason is FAULTS[first][0]


def test_size_is_decided_before_the_bytes_are_looked_at() -> None:
    """A value over the limit is too large whatever it holds; one at the limit is read."""
    small = reader(max_bytes=8)
    too_large, not_utf8 = small.read(FakeRecord(b"\xff" * 9)), small.read(FakeRecord(b"\xff" * 8))
    assert isinstance(too_large, Rejected)
    assert isinstance(not_utf8, Rejected)
    assert (too_large.reason, not_utf8.reason) == (Reason.TOO_LARGE, Reason.NOT_UTF8)


def test_invalid_utf8_is_decided_before_json() -> None:
    """Bytes that are neither UTF-8 nor JSON are not UTF-8."""
    for value in (b"{\xff", b'{"\\ud800"'):
        verdict = reader().read(FakeRecord(value))
        assert isinstance(verdict, Rejected)
        assert verdict.reason is Reason.NOT_UTF8


@pytest.mark.parametrize("name", sorted(EVENT))
def test_an_unknown_type_wins_over_any_other_wrong_field(name: str) -> None:
    """The event type is looked at before the rest of the schema, and all errors are still listed."""
    verdict = reader().read(FakeRecord(text(**({name: []} | {"event_type": "clik"}))))
    assert isinstance(verdict, Rejected)
    assert verdict.reason is Reason.UNKNOWN_EVENT_TYPE
    assert len(verdict.errors) == (1 if name == "event_type" else 2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"consent": False, "traffic": "internal"}, Reason.NO_CONSENT),
        ({"traffic": "internal"}, Reason.INTERNAL),
        ({"traffic": "bot"}, Reason.BOT),
        ({"tenant": "other"}, Reason.WRONG_TENANT),
        ({"tenant": None}, Reason.WRONG_TENANT),
        ({"item_id": "banned"}, Reason.INVALID_ITEM),
        ({"event_type": "report"}, Reason.SET_ASIDE),
    ],
)
def test_filters(changes: dict[str, Any], reason: Reason) -> None:
    """A good event that must have no effect is filtered, with its reason."""
    value = text(**({"tenant": "shop"} | changes))
    assert reader(tenant="shop", invalid_items={"banned"}).read(FakeRecord(value)) == Filtered(reason)


GOOD: list[tuple[str, bytes, Interaction]] = [
    ("plain", text(), event()),
    ("with white space", json.dumps(EVENT, indent=2).encode() + b"\n", event()),
    ("the edge of the future", text(timestamp=NOW + 300_000), event(timestamp=NOW + 300_000)),
    ("1970", text(timestamp=0), event(timestamp=0)),
    ("RFC 3339", text(timestamp="2024-11-21T03:43:59.1239Z"), event(timestamp=1_732_160_639_123)),
    ("whole number as a float", raw("timestamp", "1.732160640e12"), event()),
    ("integer value", text(value=3), event(value=3.0)),
    ("largest integer value", text(value=2**63 - 1), event(value=2.0**63)),
    ("large float value", raw("value", "1e300"), event(value=1e300)),
    ("of two keys the last wins", text()[:-1] + b', "item_id": "i-2"}', event(item_id="i-2")),
    ("of two keys the bad one first", b'{"value": NaN, "item_id": 3, ' + text(value=1)[1:], event()),
    ("nulls", text(tenant=..., consent=..., traffic=..., schema_version=..., context=...), event()),
    ("any tenant", text(tenant="other"), event(tenant="other")),
    ("surrogate pair", raw("item_id", r'"\ud83d\ude00"'), event(item_id="😀")),
    ("escaped backslash before u", raw("item_id", r'"\\ud800"'), event(item_id=r"\ud800")),
    ("escaped field name", text().replace(b"item_id", rb"\u0069tem_id"), event()),
    ("zero character", raw("item_id", r'"\u0000"'), event(item_id="\0")),
    ("256 characters of 4 bytes", text(item_id="😀" * 256), event(item_id="😀" * 256)),
    (
        "all fields",
        text(
            value=0.5,
            tenant="shop",
            consent=True,
            traffic="human",
            schema_version=1,
            context={"a": None, "b": 1, "c": 1.5, "d": True, "": "x"},
        ),
        event(
            value=0.5,
            tenant="shop",
            consent=True,
            traffic="human",
            schema_version=1,
            context={"a": None, "b": 1, "c": 1.5, "d": True, "": "x"},
        ),
    ),
]


@pytest.mark.parametrize(("value", "expected"), [case[1:] for case in GOOD], ids=[case[0] for case in GOOD])
def test_good_events_come_out_in_normal_form(value: bytes, expected: Interaction) -> None:
    """Whatever way an event was spelled, the same event comes out, with the same types."""
    found = reader().read(FakeRecord(value))
    assert found == expected
    assert isinstance(found, Interaction)
    assert (type(found.timestamp), type(found.value)) == (int, float)


def test_all_types_are_read() -> None:
    """Every type of the contract but `report` comes through."""
    for kind in ("view", "click", "like", "cart", "watch_complete", "purchase", "hide", "dislike", "return"):
        assert reader().read(FakeRecord(text(event_type=kind))) == event(event_type=kind)


def test_the_catalogue_may_change_under_a_reader() -> None:
    """An item withdrawn after the reader was made is filtered from then on."""
    invalid: set[str] = set()
    changing = reader(invalid_items=invalid)
    assert changing.read(FakeRecord(text())) == event()
    invalid.add("i-1")
    assert changing.read(FakeRecord(text())) == Filtered(Reason.INVALID_ITEM)
