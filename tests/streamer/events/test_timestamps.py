"""RFC 3339 text against the standard library's reading of it."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.events.timestamps import rfc3339_millis

OFFSETS = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(timezones=OFFSETS))
def test_any_time_in_any_offset(moment: datetime) -> None:
    """Milliseconds are those of the standard library, rounded down."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert rfc3339_millis(moment.isoformat()) == (moment - epoch) // timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("text", "millis"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:00.9999999Z", 999),
        ("1970-01-01T00:00:00.5Z", 500),
        ("1970-01-01T00:00:00-00:00", 0),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000),
    ],
)
def test_spellings(text: str, millis: int) -> None:
    """What RFC 3339 allows is read; fractions of a millisecond are cut off."""
    assert rfc3339_millis(text) == millis


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1970-01-01",
        "1970-01-01T00:00:00",
        "1970-01-01 00:00:00Z",
        "1970-01-01T00:00Z",
        "1970-1-01T00:00:00Z",
        "1970-02-30T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "1970-01-01T24:00:00Z",
        "1970-01-01T00:60:00Z",
        "1970-01-01T00:00:61Z",
        "1970-01-01T00:00:00+24:00",
        "1970-01-01T00:00:00+00:60",
        "1970-01-01T00:00:00+0100",
        "1970-01-01T00:00:00.Z",
        "1970-01-01T00:00:00Z\n",
        "19700101T000000Z",
        "1970-W01-4T00:00:00Z",
        "１９７０-01-01T00:00:00Z",
    ],
)
def test_anything_else_is_none(text: str) -> None:
    """Near misses are no times."""
    assert rfc3339_millis(text) is None
