"""How much an event weighs: strength with decay, and the confidence made from it.

    strength    r = sum of w(type) * value * 2^(-age / half_life)
    confidence  c = 1 + alpha * log1p(r)     "log"
                c = 1 + alpha * r            "linear"
                c = max(1, r)                "raw"
    recency     c -> 1 + (c - 1) * 2^(-newer / recency_entries),  newer: entries of the user with a newer time
    window      an entry whose newest event is older than the user's newest one less window_ms counts for nothing

Ages fade what a user did long ago; recency fades what they have since done other things after, however fast. Entries of
the same time share their place, so no order of arrival matters. 0 switches either off. An entry outside of the window
stays in the row, since a late event may still belong to it, but a solve takes it for an unknown item.

A history entry keeps its strength anchored at the item's newest event, so a late event gives the same
row as a punctual one and nothing grows without bound.

The bytes of a history row must be the same in every implementation, so the power of two is our own: IEEE
`+ - * /` in a fixed order and exact scaling, nothing from libm. The scalar and the array forms agree to the bit.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from schemas.records import Policy

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# Strengths and confidences saturate, so that one absurd `value` cannot make a row or a system infinite.
MAX_STRENGTH = float(np.finfo(np.float32).max)
MAX_CONFIDENCE = 1e9

# ln(2)^j / j!, the Taylor series of 2^f; sixteen terms are exact to the last bit or two on 0 <= f <= 1.
EXP2 = (
    1.0,
    0.6931471805599453,
    0.24022650695910072,
    0.05550410866482158,
    0.009618129107628477,
    0.0013333558146428443,
    0.0001540353039338161,
    1.5252733804059841e-05,
    1.321548679014431e-06,
    1.01780860092397e-07,
    7.054911620801123e-09,
    4.4455382718708116e-10,
    2.5678435993488206e-11,
    1.3691488853904128e-12,
    6.778726354822545e-14,
    3.1324367070884287e-15,
)
_LOWEST = -1000.0  # 2^-1000 and below count as nothing
_BLOCK = 8192  # elements a pass: the buffers stay in the second-level cache
_FLOAT32 = struct.Struct("<f")


def to_float32(value: float) -> float:
    """Round to the nearest float32, saturated at its largest finite value, and give it as a Python float."""
    rounded: float = _FLOAT32.unpack(_FLOAT32.pack(min(value, MAX_STRENGTH)))[0]
    return rounded


def decay(age_ms: int, half_life_ms: int) -> float:
    """Return 2^(-age/half_life) for an age of zero or more; a half-life of 0 means no decay."""
    if half_life_ms == 0:
        return 1.0
    x = -(float(age_ms) / float(half_life_ms))
    if x <= _LOWEST:
        return 0.0
    whole = math.floor(x)
    fraction = x - whole
    power = EXP2[-1]
    for coefficient in EXP2[-2::-1]:
        power = power * fraction + coefficient
    return math.ldexp(power, whole)


def decay_array(age_ms: IntArray, half_life_ms: float) -> FloatArray:
    """Return `decay` of every age, bit for bit. age_ms: any shape, int64, zero or more."""
    out = np.ones(age_ms.shape, dtype=np.float64)
    if half_life_ms == 0:
        return out
    ages, flat = np.ravel(age_ms), out.reshape(-1)
    x, whole = np.empty(_BLOCK), np.empty(_BLOCK)
    for start in range(0, flat.size, _BLOCK):
        part = flat[start : start + _BLOCK]
        _exp2_block(ages[start : start + _BLOCK], float(half_life_ms), x[: part.size], whole[: part.size], part)
    return out


def _exp2_block(ages: IntArray, half_life: float, x: FloatArray, whole: FloatArray, out: FloatArray) -> None:
    """Fill `out` with 2^(-ages/half_life); `x` and `whole` are scratch of the same length."""
    np.divide(ages, half_life, out=x)
    np.negative(x, out=x)
    gone = x <= _LOWEST
    np.maximum(x, _LOWEST, out=x)
    np.floor(x, out=whole)
    np.subtract(x, whole, out=x)
    out.fill(EXP2[-1])
    for coefficient in EXP2[-2::-1]:
        np.multiply(out, x, out=out)
        np.add(out, coefficient, out=out)
    # 2^whole is built in the exponent field: exact, and several times faster than ldexp.
    exponent = whole.astype(np.int64)
    exponent += 1023
    exponent <<= 52
    np.multiply(out, exponent.view(np.float64), out=out)
    out[gone] = 0.0


def event_weights(policy: Policy) -> Mapping[str, float]:
    """Return the weight of each event type: the policy's, or 1 each where an event's value is a rating."""
    return policy.weights if policy.feedback == "implicit" else dict.fromkeys(policy.weights, 1.0)


def event_weight(weights: Mapping[str, float], event_type: str, value: float) -> float:
    """Return the weight of one event: its type's weight times its value."""
    return weights[event_type] * value


def add_event(strength: float, time: int, weight: float, at: int, half_life_ms: int) -> tuple[float, int]:
    """Add one event of `weight` at `at` (ms) to an entry; the result is anchored at the newer of both times."""
    if at >= time:
        return to_float32(strength * decay(at - time, half_life_ms) + weight), at
    return to_float32(strength + weight * decay(time - at, half_life_ms)), time


def add_events(
    strength: Float32Array, time: IntArray, weight: FloatArray, at: IntArray, half_life_ms: int
) -> tuple[Float32Array, IntArray]:
    """Add one event to each of n entries: `add_event` row by row, bit for bit. All arguments (n,)."""
    factor = decay_array(np.abs(at - time), half_life_ms)
    newer = at >= time
    old = strength.astype(np.float64)
    total = np.where(newer, old * factor + weight, old + weight * factor)
    return np.minimum(total, MAX_STRENGTH).astype(np.float32), np.maximum(at, time)


def strength_at(strength: Float32Array, time: IntArray, now: IntArray, half_life_ms: int) -> FloatArray:
    """Return each entry's strength decayed from its own time to `now`. All broadcast; now >= time."""
    faded: FloatArray = strength * decay_array(np.maximum(now - time, 0), half_life_ms)
    return faded


def inside_window(time: IntArray, newest: IntArray | int, policy: Policy) -> BoolArray:
    """Return which entries count: time of each, newest event time of its user (ms). Both broadcast."""
    inside: BoolArray = time >= newest - policy.window_ms
    return inside


def newer_entries(time: IntArray, used: BoolArray | None = None) -> IntArray:
    """Return of each entry how many used ones of the same row have a newer time. time, used: (..., H)."""
    newer = np.zeros(time.shape, np.int64)
    for slot in range(time.shape[-1]):
        later = time[..., slot : slot + 1] > time
        newer += later if used is None else later & used[..., slot : slot + 1]
    return newer


def confidence_now(strength: Float32Array, time: IntArray, used: BoolArray, policy: Policy) -> FloatArray:
    """Return the confidence of every entry as of its user's newest one. All (..., H); 1 and above, also if unused."""
    now = np.max(time, axis=-1, keepdims=True, initial=0, where=used)
    confidence = confidence_array(strength_at(strength, time, now, policy.half_life_ms), policy)
    if policy.recency_entries:
        share = decay_array(newer_entries(time, used), policy.recency_entries)
        confidence = 1.0 + (confidence - 1.0) * share
    return confidence


def confidence_array(strength: FloatArray, policy: Policy) -> FloatArray:
    """Return the confidence c >= 1 of decayed strengths r (any shape, float64), without recency."""
    if policy.confidence == "log":
        confidence = 1.0 + policy.alpha * np.log1p(strength)
    elif policy.confidence == "linear":
        confidence = 1.0 + policy.alpha * strength
    else:
        confidence = np.maximum(1.0, strength)
    return np.minimum(confidence, MAX_CONFIDENCE)
