"""Slow twins of the factors room: the same rules in plain Python or dense numpy, written to be read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from streamer.factors.weigh import EXP2

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
Entry = tuple[int, float, int]


def power_of_two(age: int, half_life: int) -> Fraction:
    """2^(-age/half_life) to 60 digits and more, as a fraction."""
    x = -Fraction(age, half_life)
    whole = math.floor(x)
    f, ln2 = x - whole, Fraction(693147180559945309417232121458176568075500134360255, 10**51)
    term, total = Fraction(1), Fraction(0)
    for j in range(1, 40):
        total += term
        term = term * f * ln2 / j
    return total * Fraction(2) ** whole


def decay(age: int, half_life: int) -> float:
    """The rule of the specification, operation by operation."""
    if half_life == 0:
        return 1.0
    x = -(float(age) / float(half_life))
    if x <= -1000.0:
        return 0.0
    i = math.floor(x)
    f = x - i
    p = 0.0
    for c in reversed(EXP2):
        p = p * f + c
    return math.ldexp(p, i)


def _float32(value: float) -> float:
    return float(np.float32(min(value, float(np.finfo(np.float32).max))))


def fold(history: Sequence[Entry], item: int, weight: float, at: int, *, half_life: int, capacity: int) -> list[Entry]:
    """One event into one history; entries are (item, strength, time)."""
    entries = list(history)
    for slot, (known, strength, time) in enumerate(entries):
        if known == item:
            if at >= time:
                total = strength * decay(at - time, half_life) + weight
            else:
                total = strength + weight * decay(time - at, half_life)
            entries[slot] = (item, _float32(total), max(at, time))
            return entries
    newcomer = (item, _float32(weight), at)
    if len(entries) < capacity:
        return [*entries, newcomer]
    victim = min([*entries, newcomer], key=lambda entry: (entry[2], entry[0]))
    if victim is not newcomer:
        entries[entries.index(victim)] = newcomer
    return entries


def normal_equations(
    vectors: Float32Array, ridge: float, index: Sequence[int], confidence: Sequence[float], rhs: str
) -> FloatArray:
    """The user's vector from the whole matrix, one outer product at a time, in float64."""
    v = vectors.astype(np.float64)
    a = v.T @ v + ridge * np.eye(v.shape[1])
    b = np.zeros(v.shape[1])
    for at, c in zip(index, confidence, strict=True):
        if at >= 0 and math.isfinite(c):
            a += (c - 1.0) * np.outer(v[at], v[at])
            b += (c if rhs == "c" else c - 1.0) * v[at]
    return np.linalg.solve(a, b).astype(np.float64)


def half_step(
    vectors: Float32Array, confidence: FloatArray, seen: npt.NDArray[np.bool_], ridge: float, rhs: str
) -> FloatArray:
    """One half-step of batch ALS over dense matrices: confidence, seen (U, m); as in Hu, Koren and Volinsky."""
    v = vectors.astype(np.float64)
    out = []
    for c, known in zip(confidence, seen, strict=True):
        weight = np.where(known, c, 1.0)
        right = v.T @ np.where(known, c if rhs == "c" else c - 1.0, 0.0)
        out.append(np.linalg.solve(v.T @ (weight[:, None] * v) + ridge * np.eye(v.shape[1]), right))
    return np.array(out)


def sgd(
    vectors: Float32Array,
    signals: Sequence[tuple[int, Float32Array, float]],
    *,
    rate: float,
    reg: float,
    clip: float,
) -> tuple[Float32Array, list[float]]:
    """Signals (item, user vector, confidence) one after the other; also the norm of each step."""
    out, norms = vectors.copy(), []
    for item, user, c in signals:
        y, x = out[item].astype(np.float64), user.astype(np.float64)
        with np.errstate(all="ignore"):
            e = 1.0 - np.add.reduce(x * y)
            update = rate * c * (e * x) - rate * reg * y
            norm = float(np.sqrt(np.add.reduce(update * update)))
        if not math.isfinite(norm):
            norms.append(math.inf)
            continue
        if norm > clip:
            update = update * (clip / norm)
        out[item] = (y + update).astype(np.float32)
        norms.append(min(norm, clip))
    return out, norms
