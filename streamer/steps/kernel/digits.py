"""Numbers as text.

Nine significant digits tell every float32 from its neighbours (IEEE 754-2019, 5.12.2), so reading the text as a number
and rounding it to float32 gives the same 32 bits. Nine digits also leave room for two roundings in float64:

    half a unit of the ninth digit, relative         at most 5.0e-9
    scaling by a rounded power of ten, in float64    at most 4e-16
    half the distance between two float32, relative  at least 2.9e-8
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from streamer.factors.kernel.jit import jit

_HIGH = 1_000_000_000
_LEAST, _MOST = -46, 40
TENS = np.array(
    [[float(f"1e{power + 1}"), float(f"1e{8 - power}")] for power in range(_LEAST, _MOST)],
)
"""(powers of ten, 2) for each decimal exponent e from -46 on: 10^(e + 1), and 10^(8 - e), which makes nine digits."""
WIDEST = 17
"""Bytes that a float32 takes at most, and then some: sign, nine digits, point, exponent of four."""

_ZERO, _POINT, _MINUS, _PLUS, _E = 48, 46, 45, 43, 101
_ONE, _TWO, _NINE = np.uint64(1), np.uint64(2), np.uint64(9)


def _bits_of(_context: Any, number: Any) -> Any:
    """A float32's bits."""

    def generate(_: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(number), generate


bits_of: Any = intrinsic(_bits_of)


@jit()
def put_whole(out: Any, at: int, number: int) -> Any:
    """Write a whole number from 0 on; returns where it ends."""
    size, rest = 1, np.uint64(number)
    while rest >= np.uint64(10):
        rest //= np.uint64(10)
        size += 1
    rest, place = np.uint64(number), np.uint64(at + size)
    for _ in range(size):
        place -= _ONE
        tens = rest // np.uint64(10)
        out[place] = _ZERO + np.uint8(rest - tens * np.uint64(10))
        rest = tens
    return at + size


@jit()
def put_real(out: Any, at: int, number: Any, tens: Any) -> Any:
    """Write a finite float32 as JSON; returns where it ends."""
    value, place, bits = abs(np.float64(number)), np.uint64(at), bits_of(number)
    out[place] = _MINUS
    place += np.uint64(bits >> np.uint32(31))  # without a branch: half of them are negative
    if value == 0:
        out[place], out[place + _ONE], out[place + _TWO] = _ZERO, _POINT, _ZERO
        return place + np.uint64(3)
    binary = np.int64(bits >> np.uint32(23) & np.uint32(0xFF))
    # log10(2) is 1233 / 4096: the decimal exponent, or one less. Below 2^-126 the bits no longer say.
    exponent = ((binary - 127) * 1233) >> 12 if binary else np.int64(np.floor(np.log10(value) - 1e-9))
    exponent += np.int64(value >= tens[np.uint64(exponent - _LEAST), 0])
    digits = np.uint32(value * tens[np.uint64(exponent - _LEAST), 1] + 0.5)
    if digits >= np.uint32(_HIGH):  # rounding carried over
        exponent += 1
        digits = np.uint32(_HIGH // 10)
    if -5 <= exponent < 0:  # 0.000123
        for i in range(np.uint64(6)):
            out[place + i] = _ZERO
        out[place + _ONE] = _POINT
        return _trimmed(out, _put_nine(out, place + np.uint64(1 - exponent), digits))
    if exponent < 0 or exponent >= 9:  # 1.23e-07
        end = _put_nine(out, place + _ONE, digits)
        out[place], out[place + _ONE] = out[place + _ONE], _POINT
        end = _trimmed(out, end)
        end -= np.uint64(out[end - _ONE] == _POINT)
        out[end] = _E
        out[end + _ONE] = _MINUS if exponent < 0 else _PLUS
        out[end + _TWO] = _ZERO + np.uint8(abs(exponent) // 10)
        out[end + np.uint64(3)] = _ZERO + np.uint8(abs(exponent) % 10)
        return end + np.uint64(4)
    end, whole = _put_nine(out, place + _ONE, digits), np.uint64(exponent + 1)
    for i in range(place, place + whole):  # 12.3: the point goes in between
        out[np.uint64(i)] = out[np.uint64(i) + _ONE]
    out[place + whole] = _POINT
    if whole == _NINE:
        out[end] = _ZERO
        end += _ONE
    end = _trimmed(out, end)
    if out[end - _ONE] == _POINT:  # 120.0
        out[end] = _ZERO
        end += _ONE
    return end


@jit()
def _put_nine(out: Any, at: Any, digits: Any) -> Any:
    """Write nine digits, as one and four pairs that do not wait for each other."""
    high = np.uint32(digits // np.uint32(10_000))
    low = np.uint32(digits - high * np.uint32(10_000))
    first = np.uint32(high // np.uint32(10_000))
    middle = np.uint32(high - first * np.uint32(10_000))
    out[at] = np.uint8(_ZERO + first)
    _put_four(out, at + _ONE, middle)
    _put_four(out, at + np.uint64(5), low)
    return at + _NINE


@jit()
def _put_four(out: Any, at: Any, number: Any) -> None:
    left = np.uint32(np.uint32(number * np.uint32(5243)) >> np.uint32(19))  # a hundredth, for numbers below 10,000
    right = np.uint32(number - left * np.uint32(100))
    ten = np.uint32(np.uint32(left * np.uint32(103)) >> np.uint32(10))  # a tenth, for numbers below 100
    one = np.uint32(np.uint32(right * np.uint32(103)) >> np.uint32(10))
    out[at] = np.uint8(_ZERO + ten)
    out[at + _ONE] = np.uint8(_ZERO + left - ten * np.uint32(10))
    out[at + _TWO] = np.uint8(_ZERO + one)
    out[at + np.uint64(3)] = np.uint8(_ZERO + right - one * np.uint32(10))


@jit()
def _trimmed(out: Any, end: Any) -> Any:
    """Where a number ends without the zeros behind it."""
    while out[end - _ONE] == _ZERO:
        end -= _ONE
    return end
