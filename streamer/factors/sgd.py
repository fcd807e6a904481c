"""Online SGD on item vectors, one step a signal, in signal order for each item.

    pointwise   e = 1 - x.y                          x the user's vector, y the item's
    of a pair   e = s / (1 + exp(s (x.y - t)))       s the sign: +1 chosen, -1 drawn; t the score of the other item
    u = rate * g * (e * x) - rate * reg * y - rate * pull * (y - origin)
    u = u * min(1, clip / |u|)
    adagrad     h = float32(h + |u / rate|^2),  u = u / sqrt(1 + h)
    y = y + u,  y = float32(y * min(1, cap / |y|))   g the event's confidence times what budget and balance leave of it

The second form is BPR, each item of the pair moved by its own owner: the other's score comes with the signal. AdaGrad
sums what is left after clipping, so that one absurd signal cannot freeze an item for good.

Each step is taken in float64 and stored in float32, as the row between two batches is: so the vectors do not depend
on how signals were cut into batches. Sums are numpy's own and not the BLAS's, so they do not depend on the machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from schemas.records import Policy

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Index = NDArray[np.intp]

REFUSED = float("inf")
_STEEPEST = 700.0  # exp of more is beyond float64


@dataclass(frozen=True, slots=True)
class Pairs:
    """What signals of pairs bring: the score of the other item, and +1 or -1; both (S,) float64."""

    other: FloatArray
    sign: FloatArray


@dataclass(frozen=True, slots=True)
class _Rule:
    """The policy's numbers, multiplied out; pull and adagrad are 0 and False where they are off."""

    rate: float
    shrink: float
    pull: float
    clip: float
    adagrad: bool
    cap: float


def apply_signals(
    vectors: Float32Array,
    item_of_signal: Index,
    user_vectors: Float32Array,
    confidence: FloatArray,
    policy: Policy,
    *,
    pairs: Pairs | None = None,
    origin: Float32Array | None = None,
    optimiser: Float32Array | None = None,
) -> tuple[Float32Array, FloatArray]:
    """Apply signals to item vectors.

    Args:
        vectors: (I, k) item vectors.
        item_of_signal: (S,) row of `vectors` that each signal is for.
        user_vectors: (S, k) the vector of each signal's user.
        confidence: (S,) of each signal's event, with what budget and balance leave of it.
        policy: its `sgd_rate`, `sgd_reg`, `sgd_clip`, `sgd_pull`, `sgd_step` and `norm_cap`.
        pairs: of signals of pairs; None for pointwise ones.
        origin: (I, k) what `sgd_pull` pulls to; needed where that is above 0.
        optimiser: (I,) the sums h, changed in place; needed for AdaGrad.

    Returns:
        The new vectors (I, k), and the norm of each signal's step (S,); a step that is not finite is not taken, and
        its norm is `REFUSED`.
    """
    signals = np.bincount(item_of_signal, minlength=len(vectors))
    # Busiest items first: the items that still have an r-th signal are then the leading rows, and rows are views.
    busiest = np.argsort(-signals, kind="stable")
    place = np.empty(len(vectors), np.intp)
    place[busiest] = np.arange(len(vectors))
    ranked = signals[busiest]
    order = np.argsort(place[item_of_signal], kind="stable")
    rank = np.arange(len(order)) - np.repeat(np.cumsum(ranked) - ranked, ranked)
    order = order[np.argsort(rank, kind="stable")]

    rule = _Rule(
        policy.sgd_rate,
        policy.sgd_rate * policy.sgd_reg,
        policy.sgd_rate * policy.sgd_pull if origin is not None else 0.0,
        policy.sgd_clip,
        policy.sgd_step == "adagrad" and policy.sgd_rate > 0,
        policy.norm_cap,
    )
    y = vectors[busiest].astype(np.float64)
    x = user_vectors[order].astype(np.float64)
    gain = policy.sgd_rate * np.asarray(confidence, np.float64)[order]
    home = None if origin is None else origin[busiest].astype(np.float64)
    spent = np.zeros(len(vectors), np.float32) if optimiser is None else optimiser[busiest]
    sorted_pairs = None if pairs is None else Pairs(pairs.other[order], pairs.sign[order])
    steps, stop = np.empty(len(order)), 0
    with np.errstate(over="ignore", invalid="ignore"):
        for active in np.bincount(rank).tolist():
            part = slice(stop, stop + active)
            stop += active
            error = _error(np.add.reduce(x[part] * y[:active], axis=1), sorted_pairs, part)
            update = gain[part, None] * (error[:, None] * x[part])
            steps[part] = _step(y[:active], update, None if home is None else home[:active], spent[:active], rule)
    norms = np.empty_like(steps)
    norms[order] = steps
    if optimiser is not None:
        optimiser[busiest] = spent
    return y.astype(np.float32)[place], norms


def _error(score: FloatArray, pairs: Pairs | None, part: slice) -> FloatArray:
    """How far each score (A,) is from what its signal says."""
    if pairs is None:
        return np.asarray(1.0 - score, np.float64)
    sign = pairs.sign[part]
    # One at a time: numpy's exp may round otherwise in the last elements of an array, wherever that ends.
    chance = [1.0 / (1.0 + math.exp(min(z, _STEEPEST))) for z in (sign * (score - pairs.other[part])).tolist()]
    return np.asarray(sign * np.array(chance), np.float64)


def _step(y: FloatArray, update: FloatArray, home: FloatArray | None, spent: Float32Array, rule: _Rule) -> FloatArray:
    """One step of each of A items: moves y (A, k) and spent (A,) in place, returns the norms of the steps (A,)."""
    update -= rule.shrink * y
    if home is not None and rule.pull:
        update -= rule.pull * (y - home)
    norm: FloatArray = np.sqrt(np.add.reduce(update * update, axis=1))
    if not norm.max() <= rule.clip:  # also where it is not a number
        with np.errstate(divide="ignore"):
            update *= np.minimum(1.0, rule.clip / norm)[:, None]
        good = np.isfinite(norm)
        update[~good] = 0.0
        norm = np.where(good, np.minimum(norm, rule.clip), REFUSED)
    if rule.adagrad:
        gradient = np.where(np.isfinite(norm), norm, 0.0) / rule.rate
        spent[:] = (spent + gradient * gradient).astype(np.float32)
        shrunk = 1.0 / np.sqrt(1.0 + spent.astype(np.float64))
        update *= shrunk[:, None]
        norm = norm * shrunk
    y += update
    length: FloatArray = np.sqrt(np.add.reduce(y * y, axis=1))
    if not length.max() <= rule.cap:
        y *= np.minimum(1.0, rule.cap / length)[:, None]
    y[:] = y.astype(np.float32)
    return norm
