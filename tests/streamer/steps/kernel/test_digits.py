"""A float32 as text: the same 32 bits come back, and JSON's parsers take it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("numba")

from streamer.factors.kernel.jit import jit
from streamer.steps.kernel.digits import TENS, WIDEST, put_real, put_whole

FINITE = st.integers(0, 2**32 - 1).filter(lambda bits: bits >> 23 & 0xFF != 0xFF)


@jit()
def _real(out: Any, number: Any, tens: Any) -> Any:
    return put_real(out, 0, number, tens)


@jit()
def _whole(out: Any, number: int) -> Any:
    return put_whole(out, 0, number)


def text_of(number: np.float32) -> str:
    out = np.full(WIDEST, 0x21, np.uint8)
    size = int(_real(out, number, TENS))
    assert size <= WIDEST
    return out[:size].tobytes().decode()


@given(bits=st.lists(FINITE, min_size=1, max_size=200))
@example(bits=[0, 1 << 31, 1, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF])
def test_the_same_bits_come_back(bits: list[int]) -> None:
    for number in np.array(bits, np.uint32).view(np.float32):
        back = np.float32(json.loads(text_of(number)))
        assert back.tobytes() == number.tobytes()


def test_the_same_bits_come_back_around_every_power_of_ten() -> None:
    """Where the decimal exponent changes, and rounding to nine digits may carry over."""
    powers = np.array([float(f"1e{power}") for power in range(-44, 39)], np.float32)
    for number in (powers, np.nextafter(powers, np.float32(0)), np.nextafter(powers, np.float32(np.inf))):
        back = np.array([json.loads(text_of(one)) for one in number], np.float64).astype(np.float32)
        assert back.tobytes() == number.tobytes()


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0.0"), (-0.0, "-0.0"), (1.0, "1.0"), (-120.0, "-120.0"), (0.5, "0.5"), (1e-7, "1.00000001e-07")],
)
def test_numbers_look_as_people_write_them(number: float, text: str) -> None:
    assert text_of(np.float32(number)) == text


@given(number=st.integers(0, 2**63 - 1))
def test_whole_numbers(number: int) -> None:
    out = np.zeros(20, np.uint8)
    assert out[: int(_whole(out, number))].tobytes().decode() == str(number)
