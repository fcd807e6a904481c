"""The record that says which generation a partition is at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.cuts import GENERATION_KEY, Cut, decode_cut, encode_cut


@given(generation=st.integers(0, 2**64 - 1), offset=st.integers(0, 2**63 - 1), settled=st.booleans())
def test_what_is_written_is_read(generation: int, offset: int, settled: bool) -> None:
    """To the bit."""
    cut = Cut(generation, offset, settled)
    assert decode_cut(encode_cut(cut)) == cut


def test_the_written_bytes_stay() -> None:
    """Changelogs outlive versions of this code."""
    assert encode_cut(Cut(0x0102030405060708, 9, True)).hex() == "0807060504030201" + "0900000000000000" + "01"
    with pytest.raises(ValueError, match="17 bytes, not 3"):
        decode_cut(b"abc")


def test_nobody_can_have_its_key() -> None:
    """Ids are UTF-8."""
    with pytest.raises(UnicodeDecodeError):
        GENERATION_KEY.decode()
