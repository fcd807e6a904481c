"""CloudEvents in both modes carry the same event as plain JSON."""

import json
from typing import Any

import pytest

from schemas.outcomes import Reason
from schemas.records import Interaction
from streamer.events.explain import explain
from streamer.events.hashes import fingerprint
from streamer.events.verdicts import Rejected
from tests.streamer.events.samples import EVENT, FakeRecord, errors_of, event, reader, text

BINARY: list[tuple[str, bytes | None]] = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"r-1"),
    ("ce_source", b"/shop"),
    ("ce_type", b"click"),
    ("ce_time", b"2024-11-21T03:44:00Z"),
    ("content-type", b"application/json"),
]


def structured(**changes: Any) -> bytes:
    """A structured envelope whose data lacks request id and timestamp."""
    data = {name: value for name, value in EVENT.items() if name not in {"request_id", "timestamp"}}
    envelope: dict[str, Any] = {
        "specversion": "1.0",
        "id": "r-1",
        "source": "/shop",
        "type": "click",
        "time": "2024-11-21T03:44:00Z",
        "traceparent": "an extension is not an unknown field",
        "data": data,
    }
    return json.dumps({k: v for k, v in (envelope | changes).items() if v is not None}).encode()


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (text(), BINARY),
        (text(request_id=None), BINARY),
        (text(timestamp=None), BINARY),
        (text(request_id=None, timestamp=None), BINARY),
        (structured(), []),
        (structured(data=EVENT), []),
        (structured(data=EVENT, id=None, time=None), []),
        (structured(), [("content-type", b"Application/CloudEvents+JSON; charset=UTF-8")]),
        (structured(), [("content-type", None)]),
    ],
)
def test_every_envelope_gives_the_plain_event(value: bytes, headers: list[tuple[str, bytes | None]]) -> None:
    """A retry in another envelope is the same event, to the fingerprint."""
    found = reader().read(FakeRecord(value, headers=headers))
    assert found == event()
    assert isinstance(found, Interaction)
    assert fingerprint(found) == fingerprint(event())


def test_the_event_itself_wins_over_its_envelope() -> None:
    """Request id and timestamp of the data are kept when the envelope has others."""
    value = structured(id="r-9", time="1999-01-01T00:00:00Z", data=EVENT)
    assert explain(value, ()) == event()
    assert explain(text(), [("ce_id", b"r-9"), *BINARY]) == event()


@pytest.mark.parametrize(
    ("value", "headers", "error"),
    [
        (structured(specversion="0.3"), [], '$.specversion: must be "1.0", got "0.3"'),
        (structured(specversion=1), [], '$.specversion: must be "1.0", got 1'),
        (structured(data=None), [], "$.data: must be an object, got null"),
        (structured(data="click"), [], '$.data: must be an object, got "click"'),
        (structured(data=EVENT | {"value": 0}), [], "$.data.value: must be a number > 0, got 0"),
        (structured(data=EVENT | {"vlue": 1}), [], "$.data.vlue: unknown field; did you mean value?"),
        (structured(id=None), [], "$.data.request_id: missing"),
        (structured(id=7), [], "$.id: must be text of 1 to 128 characters, got 7"),
        (
            structured(specversion=None),
            [("content-type", b"application/cloudevents+json")],
            "$.specversion: missing",
        ),
        (
            text(timestamp=None),
            [("ce_specversion", b"1.0"), ("ce_time", b"noon")],
            'header ce_time: must be milliseconds since 1970, >= 0, or RFC 3339 text, got "noon"',
        ),
        (
            text(request_id=None),
            [("ce_specversion", b"1.0"), ("ce_id", b"\xff")],
            "header ce_id: must be UTF-8",
        ),
        (
            text(request_id=None),
            [("ce_specversion", b"2.0"), ("ce_id", b"r-1")],
            'header ce_specversion: must be "1.0", got "2.0"',
        ),
        (text(request_id=None), [("ce_specversion", b"1.0")], "$.request_id: missing"),
        (text(request_id=None), [("ce_id", b"r-1")], "$.request_id: missing"),
    ],
)
def test_faults_of_the_envelope_are_errors_of_the_schema(
    value: bytes, headers: list[tuple[str, bytes | None]], error: str
) -> None:
    """Each names the place in the envelope, or the path through it."""
    verdict = explain(value, headers)
    assert isinstance(verdict, Rejected)
    assert verdict.reason is Reason.SCHEMA
    assert error in errors_of(value, headers)


def test_an_unknown_type_wins_over_a_bad_envelope() -> None:
    """The order of the reasons holds inside envelopes."""
    verdict = explain(structured(specversion="9", data=EVENT | {"event_type": "clik"}), ())
    assert isinstance(verdict, Rejected)
    assert verdict.reason is Reason.UNKNOWN_EVENT_TYPE
