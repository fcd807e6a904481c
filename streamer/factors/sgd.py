"""Online SGD on item vectors, one pointwise step a signal, in signal order for each item.

    e = 1 - x.y
    u = rate * c * (e * x) - rate * reg * y          x the user's vector, c the event's confidence
    y = float32(y + u * min(1, clip / |u|))

Each step is taken in float64 and stored in float32, as the row between two batches is: so the vectors do not depend
on how signals were cut into batches. Sums are numpy's own and not the BLAS's, so they do not depend on the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from schemas.records import Policy

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Index = NDArray[np.intp]

REFUSED = float("inf")


def apply_signals(
    vectors: Float32Array,
    item_of_signal: Index,
    user_vectors: Float32Array,
    confidence: FloatArray,
    policy: Policy,
) -> tuple[Float32Array, FloatArray]:
    """Apply signals to item vectors.

    Args:
        vectors: (I, k) item vectors.
        item_of_signal: (S,) row of `vectors` that each signal is for.
        user_vectors: (S, k) the vector of each signal's user.
        confidence: (S,) of each signal's event.
        policy: its `sgd_rate`, `sgd_reg` and `sgd_clip`.

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

    y = vectors[busiest].astype(np.float64)
    x = user_vectors[order].astype(np.float64)
    gain = policy.sgd_rate * np.asarray(confidence, np.float64)[order]
    pull, clip = policy.sgd_rate * policy.sgd_reg, policy.sgd_clip
    steps, stop = np.empty(len(order)), 0
    with np.errstate(over="ignore", invalid="ignore"):
        for active in np.bincount(rank).tolist():
            part = slice(stop, stop + active)
            stop += active
            steps[part] = _step(y[:active], x[part], gain[part], pull, clip)
    norms = np.empty_like(steps)
    norms[order] = steps
    return y.astype(np.float32)[place], norms


def _step(y: FloatArray, x: FloatArray, gain: FloatArray, pull: float, clip: float) -> FloatArray:
    """One signal for each of A items: move y (A, k) in place, return the norms of the steps (A,)."""
    error = 1.0 - np.add.reduce(x * y, axis=1)
    update = gain[:, None] * (error[:, None] * x)
    update -= pull * y
    norm: FloatArray = np.sqrt(np.add.reduce(update * update, axis=1))
    if not norm.max() <= clip:  # also where it is not a number
        with np.errstate(divide="ignore"):
            update *= np.minimum(1.0, clip / norm)[:, None]
        good = np.isfinite(norm)
        update[~good] = 0.0
        norm = np.where(good, np.minimum(norm, clip), REFUSED)
    y += update
    y[:] = y.astype(np.float32)
    return norm
