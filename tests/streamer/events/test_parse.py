"""Strict JSON, with a bound on depth that no interpreter moves."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.outcomes import Reason
from streamer.events.parse import MAX_DEPTH, BadNumber, parse
from streamer.events.verdicts import Rejected


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=8))
def test_surrogates_are_judged_as_utf8_would(text: str) -> None:
    """Escaped text is taken exactly when the string it spells can be encoded."""
    value = json.dumps(text).encode()
    try:
        json.loads(value).encode()
    except UnicodeEncodeError:
        verdict = parse(value)
        assert isinstance(verdict, Rejected)
        assert verdict.reason is Reason.NOT_UTF8
    else:
        assert parse(value) == json.loads(value)


def test_depth_is_bounded_by_us() -> None:
    """The deepest allowed value parses, one level more does not; brackets in strings do not count."""
    assert not isinstance(parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH), Rejected)
    verdict = parse(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))
    assert isinstance(verdict, Rejected)
    assert verdict.reason is Reason.NOT_JSON
    assert parse(json.dumps("[" * 1000 + '\\"{').encode()) == "[" * 1000 + '\\"{'
    assert parse(json.dumps([[]] * 1000).encode()) == [[]] * 1000


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("9223372036854775808", BadNumber("9223372036854775808")),
        ("-9223372036854775809", BadNumber("-9223372036854775809")),
        ("1e308", 1e308),
        ("1e309", BadNumber("1e309")),
        ("-1e309", BadNumber("-1e309")),
        ("NaN", BadNumber("NaN")),
        ("-Infinity", BadNumber("-Infinity")),
        ("1" * 5000, BadNumber("1" * 5000)),
    ],
)
def test_bad_numbers_are_kept_apart(text: str, number: object) -> None:
    """Numbers that no event may hold parse, as themselves."""
    assert parse(text.encode()) == number
