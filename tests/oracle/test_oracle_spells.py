"""The oracle's own reading of the specification, against published values and against itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle.hashes import _murmur2, fingerprint, generation_id, item_hash, request_hash
from tests.oracle.judge import judge
from tests.oracle.logs import LogRecord
from tests.oracle.numbers import COEFFICIENTS, add_event, decay
from tests.oracle.rowbytes import Entry, Key, Suppressed, UserRow, encode, parse, size_class
from tests.oracle.rules import Rules

RULES = Rules(model_version="m", dimension=2, item_key=bytes(16), average_user=(0.0, 0.0))
_DAY = 86_400_000


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_the_one_of_kafka(key: bytes, signed: int) -> None:
    """The values of Apache Kafka's own UtilsTest."""
    assert _murmur2(key) == signed % 2**32


def test_hashes_are_what_the_specification_says() -> None:
    """Frozen values, computed once with other tools."""
    event = {"item_id": "i", "event_type": "view", "timestamp": 5}
    assert generation_id("") == int.from_bytes(bytes.fromhex("e3b0c44298fc1c14"), "little")
    assert item_hash("a", bytes(16)) != item_hash("a", bytes(15) + b"\x01")
    assert request_hash(None, "u", "r") == request_hash("", "u", "r") != request_hash("u", "", "r")
    assert fingerprint(event) == fingerprint(event | {"value": 1, "schema_version": 1})
    assert fingerprint(event) != fingerprint(event | {"value": 2})


@given(age=st.integers(0, 400 * _DAY), half_life=st.integers(1, 60 * _DAY))
def test_decay_is_a_power_of_two(age: int, half_life: int) -> None:
    """Our own exp2 is exp2 to the last bits."""
    assert decay(age, half_life) == pytest.approx(2.0 ** -(age / half_life), rel=1e-14)
    assert decay(half_life, half_life) == 0.5
    assert decay(age, 0) == 1.0


def test_the_series_begins_as_two_to_the_x_does() -> None:
    """1, ln 2, ln(2)^2/2."""
    assert COEFFICIENTS[:3] == [1.0, math.log(2), 0.24022650695910072]


def test_an_event_is_anchored_at_the_newer_time() -> None:
    """Late or not, the entry's time is its newest event's."""
    assert add_event(1.0, 0, 2.0, _DAY, _DAY) == (2.5, _DAY)
    assert add_event(2.0, _DAY, 1.0, 0, _DAY) == (2.5, _DAY)


def test_rows_survive_their_bytes() -> None:
    """What is written is read."""
    row = UserRow(
        np.array([1.5, -2.0], np.float32),
        [3, 4],
        generation=2**64 - 1,
        version=7,
        events=9,
        event_time=10,
        source_next=11,
        cap_day=12,
        cap_count=13,
        key_head=1,
        history=[Entry(2**63, 5, 0.5)] * 9,
        keys=[Key(1, 2, 3)],
        suppressed=[Suppressed("ü", 1, 2, 3, 4)],
    )
    data = encode(row, 12, 10)
    again = parse(data, 2, 12, 10)
    assert encode(again, 12, 10) == data
    assert (again.history, again.keys, again.suppressed) == (row.history, row.keys, row.suppressed)
    assert size_class(9, 1, 12, 10) == (12, 10)
    assert size_class(8, 8, 128, 64) == (8, 8)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'"\\ud800"', "not_utf8"),
        (b'"\\\\ud800"', "schema"),
        (b"[" * 65 + b"]" * 65, "not_json"),
        (b"[" * 64 + b"]" * 64, "schema"),
        (b'{"event_type": "wish"}', "unknown_event_type"),
        (b'{"event_type": "view"}', "schema"),
        (b'{"specversion": "1.0", "data": 1}', "schema"),
    ],
)
def test_the_first_reason_that_applies_wins(value: bytes, reason: str) -> None:
    """In the contract's order."""
    assert judge(LogRecord(0, 0, b"u", value), RULES).refused == reason


@pytest.mark.parametrize(
    ("time", "millis"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2024-02-29T12:00:00.1239+02:00", 1709200800123),
        ("2016-12-31T23:59:60Z", 1483228800000),
    ],
)
def test_times_may_be_text(time: str, millis: int) -> None:
    """RFC 3339, cut to milliseconds."""
    text = f'{{"request_id":"r","user_id":"u","item_id":"i","event_type":"view","timestamp":"{time}"}}'
    event = judge(LogRecord(0, 0, b"u", text.encode(), millis), RULES).event
    assert event is not None
    assert event["timestamp"] == millis
