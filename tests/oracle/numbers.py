"""The arithmetic of strengths and confidences, written from the specification, one number at a time.

decay      2^(-age / half_life), made of IEEE + - * / and exact scaling only
strength   newer event:  s = f32(s * decay(t - time) + w), time = t
           older event:  s = f32(s + w * decay(time - t))
"""

from __future__ import annotations

import math
from decimal import Decimal, getcontext

import numpy as np
import numpy.typing as npt

_TERMS = 16
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_CONFIDENCE_MAX = 1e9


def _coefficients() -> list[float]:
    """ln(2)^j / j! for j = 0..15, each the nearest float64; computed here, not copied."""
    getcontext().prec = 60
    log_of_two = Decimal(2).ln()
    return [float(log_of_two**power / math.factorial(power)) for power in range(_TERMS)]


COEFFICIENTS = _coefficients()


def decay(age_ms: int, half_life_ms: float) -> float:
    """2^(-age/half_life); 1 without a half-life, 0 below 2^-1000."""
    if half_life_ms == 0:
        return 1.0
    exponent = -(float(age_ms) / float(half_life_ms))
    if exponent <= -1000.0:
        return 0.0
    whole = math.floor(exponent)
    fraction = exponent - whole
    power = COEFFICIENTS[_TERMS - 1]
    for term in range(_TERMS - 2, -1, -1):
        power = power * fraction + COEFFICIENTS[term]
    return math.ldexp(power, whole)


def to_float32(value: float) -> float:
    """The nearest float32, at most the largest finite one."""
    return float(np.float32(min(value, _FLOAT32_MAX)))


def add_event(strength: float, time: int, weight: float, at: int, half_life_ms: int) -> tuple[float, int]:
    """An entry's (strength, time) after one more event."""
    if at >= time:
        return to_float32(strength * decay(at - time, half_life_ms) + weight), at
    return to_float32(strength + weight * decay(time - at, half_life_ms)), time


def confidences(strengths: list[float], form: str, alpha: float) -> npt.NDArray[np.float64]:
    """Confidences c >= 1 of decayed strengths; the logarithm is numpy's, as in every implementation."""
    r = np.array(strengths, np.float64)
    if form == "log":
        c = 1.0 + alpha * np.log1p(r)
    elif form == "linear":
        c = 1.0 + alpha * r
    else:
        c = np.maximum(1.0, r)
    capped: npt.NDArray[np.float64] = np.minimum(c, _CONFIDENCE_MAX)
    return capped
