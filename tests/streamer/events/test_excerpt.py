"""Excerpts are short, whatever they are excerpts of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.events.excerpt import EXCERPT_CHARS, excerpt, field_path
from streamer.events.parse import BadNumber


@given(st.text() | st.integers() | st.floats() | st.text().map(BadNumber))
def test_never_longer_than_promised(value: object) -> None:
    """64 characters, quotes and ellipsis included."""
    assert len(excerpt(value)) <= EXCERPT_CHARS


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        ("a\n", '"a\\n"'),
        ({"a": 1}, "an object"),
        ([1], "an array"),
        ("x" * 62, '"' + "x" * 62 + '"'),
        ("x" * 63, '"' + "x" * 62 + "…"),
        (BadNumber("NaN"), "NaN"),
    ],
)
def test_spelled_as_json(value: object, shown: str) -> None:
    """A value is quoted as it stood in the record."""
    assert excerpt(value) == shown


@pytest.mark.parametrize(
    ("name", "path"),
    [("value", "$.value"), ("a b", '$["a b"]'), ("", '$[""]'), ("x" * 65, '$["' + "x" * 62 + "…]")],
)
def test_paths(name: str, path: str) -> None:
    """Plain names follow a dot, others stand quoted, and cut, in brackets."""
    assert field_path("$", name) == path
