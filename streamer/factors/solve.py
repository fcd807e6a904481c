"""The user's vector from the user's history, against fixed item vectors.

    A x = b,   A = V'V + ridge_u I + sum (c-1) v v',   b = sum q v,   q = c or c-1 (the policy's `rhs`)

V'V runs over all items of the space, the sums over the history's items that the space knows and whose confidence is
a finite number; ridge_u is the same for all, or grows with the number of those items (`streamer.factors.ridge`).

`solve_cholesky` is the reference. `solve_batch` solves many users in whitened coordinates y = L' x (`space`), where
the spectrum of A starts at 1: with a relative residual of at most t, y is within t of the exact one, relative to its
length, and so is every score, in the root mean square over all items. In x itself the error was at most 2.5 t over
item vectors as ALS leaves them, and 5.5 t over random ones of 8 dimensions that move (five minutes of churn, 42,580
solves); in theory up to t times the root of the condition of V'V + ridge I. The default of 1e-6 keeps it below 1e-5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotrs

from streamer.factors.gradients import conjugate_gradients
from streamer.factors.ridge import Ridge
from streamer.factors.space import ItemSpace
from streamer.factors.table import IndexArray

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Index = NDArray[np.intp]

MAX_STEPS = 40
# (c-1) w'w of one entry, and their sum over a history, above which a user is solved by Cholesky: one entry that
# outweighs all else costs float32 its digits (measured: 4e-6 at 30, 1e-5 at 100), a large sum costs steps.
MAX_PEAK = 30.0
MAX_TRACE = 300.0
# How much shorter, squared, a solution may be than its start: float32 has lost its digits on the way beyond that.
MAX_SHRINK = 1e4

_CHUNK_BYTES = 7 << 19  # gathered rows of a chunk; measured: smaller pays for numpy calls, larger leaves the caches
_STRIDE = 8  # users whose histories are about as long go together, in strides of this many entries


@dataclass(frozen=True, slots=True)
class Solution:
    """What a batch of solves gives.

    Attributes:
        vectors: (B, k) float32, always finite; zeros for a user without a known item.
        iterations: steps of the slowest chunk.
        residual: (B,) relative residual in whitened coordinates; 0 where Cholesky solved it.
        empty: (B,) users without a known item: the caller takes the average user for them.
        fallbacks: users that were solved by Cholesky.
    """

    vectors: Float32Array
    iterations: int
    residual: FloatArray
    empty: BoolArray
    fallbacks: int


class FixedItems(Protocol):
    """What `solve_cholesky` asks of an item space: vectors (m, k) float32, Gramian (k, k) float64, ridges."""

    @property
    def dimension(self) -> int: ...  # noqa: D102 - k
    @property
    def rule(self) -> Ridge: ...  # noqa: D102
    @property
    def vectors(self) -> Float32Array: ...  # noqa: D102
    @property
    def gramian(self) -> FloatArray: ...  # noqa: D102


def solve_cholesky(space: FixedItems, index: IndexArray, confidence: NDArray[np.floating], rhs: str) -> Float32Array:
    """Solve one user in float64: the reference. index, confidence: (n,) in history order; returns (k,) float32.

    The operations and their order are fixed, so that whoever repeats them with the same numpy gets the same bytes:
    A = G + ridge_u I; A += (V_n * (c-1)).T @ V_n; b = V_n.T @ q; Cholesky of the lower triangle; round to float32.
    """
    c = np.asarray(confidence, dtype=np.float64)
    usable = (index >= 0) & np.isfinite(c)
    rows, c = space.vectors[index[usable]].astype(np.float64), c[usable]
    if not len(rows):
        return np.zeros(space.dimension, dtype=np.float32)
    system = space.gramian + space.rule.of(len(rows)) * np.eye(space.dimension)
    system += (rows * (c - 1.0)[:, None]).T @ rows
    right = rows.T @ (c if rhs == "c" else c - 1.0)
    # LAPACK itself, as scipy's cho_factor and cho_solve call it, without the time they take around it.
    factor, failed = dpotrf(system, lower=1, clean=0)
    # It fails where weights are so large that the ridge drowns in rounding: any least-squares answer will do.
    exact = np.linalg.lstsq(system, right)[0] if failed else dpotrs(factor, right, lower=1)[0]
    vector: Float32Array = exact.astype(np.float32)
    return vector


def solve_batch(
    space: ItemSpace,
    index: IndexArray,
    confidence: NDArray[np.floating],
    rhs: str,
    start: Float32Array | None,
    tolerance: float,
) -> Solution:
    """Solve many users at once.

    Args:
        space: the item vectors.
        index: (B, H) item indexes, -1 where a slot is unused or its item unknown.
        confidence: (B, H) confidence of each slot.
        rhs: "c" or "c-1".
        start: (B, k) vectors to start from, the nearer the faster; None for zeros.
        tolerance: relative residual to reach, see the module.
    """
    users, k = len(index), space.dimension
    remainder = space.remainder()
    usable = (index >= 0) & np.isfinite(confidence)
    with np.errstate(over="ignore", invalid="ignore"):
        d = (confidence - 1.0).astype(np.float32)
        d[~usable] = 0.0
        load = space.leverage.take(index, mode="clip")
        load *= d
        trace = load.sum(axis=1)
        easy = (trace <= MAX_TRACE) & (load.max(axis=1, initial=0.0) <= MAX_PEAK)
    q = d if rhs == "c-1" else d + usable
    y = np.zeros((users, k), dtype=np.float32) if start is None else _started(space, start)
    scale = space.scale(usable.sum(axis=1))
    if scale is not None:
        y /= scale
    residual, worst, before = np.zeros(users), 0, np.vecdot(y, y)
    for chosen, width in _chunks(usable, trace, easy, 4 * k):
        picked = index[chosen, :width]
        rows = space.scratch(picked.size)
        space.whitened.take(picked.reshape(-1), axis=0, mode="clip", out=rows)
        y_chosen = y[chosen]
        gathered = rows.reshape(*picked.shape, k)
        own = None if scale is None else scale[chosen]
        if own is not None:
            gathered *= own[:, None, :]
        steps, residual[chosen] = conjugate_gradients(
            gathered,
            d[chosen, :width],
            q[chosen, :width],
            y_chosen,
            remainder,
            tolerance,
            MAX_STEPS,
            own,
        )
        y[chosen] = y_chosen
        worst = max(worst, steps)
    vectors = space.unwhiten(y if scale is None else y * scale)
    empty = ~usable.any(axis=1)
    vectors[empty] = 0.0
    shrunk = np.vecdot(y, y) * np.float32(MAX_SHRINK) < before
    hard = np.flatnonzero(~(easy & (residual <= tolerance) & ~shrunk) & ~empty)
    for user in hard.tolist():
        vectors[user] = solve_cholesky(space, index[user], confidence[user], rhs)
        residual[user] = 0.0
    return Solution(vectors, worst, residual, empty, len(hard))


def _started(space: ItemSpace, start: Float32Array) -> Float32Array:
    """Whitened start; a vector that is not finite, or too long to be one, starts from zero."""
    with np.errstate(over="ignore", invalid="ignore"):
        y = space.whiten(start)
        y[~np.isfinite(np.vecdot(y, y))] = 0.0
    return y


def _chunks(
    usable: BoolArray, trace: Float32Array, easy: BoolArray, row_bytes: int
) -> Iterator[tuple[Index | slice, int]]:
    """Yield (users, width): users of about equal length and, among those, about equal difficulty."""
    width = usable.shape[1]
    length = (usable * np.arange(1, width + 1, dtype=np.int16)).max(axis=1, initial=0)
    longest = int(length.max(initial=0))
    if not longest:
        return
    if len(usable) * longest * row_bytes <= _CHUNK_BYTES and easy.all():
        yield slice(None), longest
        return
    order = np.lexsort((trace, length // _STRIDE))
    order = order[easy[order] & (length[order] > 0)]
    rows = np.cumsum(length[order], dtype=np.int64)
    # Chunks of about equal work: a small one at the end would pay for its numpy calls alone.
    count = -(-int(rows[-1]) * row_bytes // _CHUNK_BYTES) if rows.size else 0
    for chosen in np.split(order, np.searchsorted(rows, np.arange(1, count) * (rows[-1:] / count))):
        if chosen.size:
            yield chosen, int(length[chosen].max())
