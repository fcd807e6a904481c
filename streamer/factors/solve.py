"""The user's vector from the user's history, against fixed item vectors.

    A x = b,   A = V'V + ridge I + sum (c-1) v v',   b = sum q v,   q = c or c-1 (the policy's `rhs`)

V'V runs over all items, the sums over the items of the history that the space knows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from streamer.factors.space import ItemSpace
from streamer.factors.table import IndexArray

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

MAX_ITERATIONS = 40
_CHUNK_BYTES = 1 << 19


@dataclass(frozen=True, slots=True)
class Solution:
    """What a batch of solves gives.

    Attributes:
        vectors: (B, k) float32; zeros for a user without known items.
        iterations: steps of the slowest chunk.
        residual: (B,) relative residual at the end, in whitened coordinates.
        empty: (B,) users without a known item: use the average user for them.
        fallbacks: users that did not converge and were solved by Cholesky.
    """

    vectors: Float32Array
    iterations: int
    residual: FloatArray
    empty: BoolArray
    fallbacks: int


def solve_cholesky(space: ItemSpace, index: IndexArray, confidence: FloatArray, rhs: str) -> Float32Array:
    """Solve one user in float64: the reference. index: (n,) in history order, confidence: (n,); -> (k,) float32.

    The operations and their order are fixed, so that whoever repeats them with the same numpy gets the same bytes:
    A = G + ridge I; A += (V_n * (c-1)).T @ V_n; b = V_n.T @ q; Cholesky of the lower triangle; rounded to float32.
    """
    known = index >= 0
    rows = space.vectors[index[known]].astype(np.float64)
    c = np.asarray(confidence, dtype=np.float64)[known]
    if not len(rows):
        return np.zeros(space.dimension, dtype=np.float32)
    system = space.gramian + space.ridge * np.eye(space.dimension)
    system += (rows * (c - 1.0)[:, None]).T @ rows
    right = rows.T @ (c if rhs == "c" else c - 1.0)
    vector: Float32Array = cho_solve(cho_factor(system, lower=True), right).astype(np.float32)
    return vector


def solve_batch(
    space: ItemSpace,
    index: IndexArray,
    confidence: NDArray[np.floating],
    rhs: str,
    start: Float32Array | None,
    tolerance: float,
) -> Solution:
    """Solve many users by conjugate gradients. index: (B, H), -1 unknown or unused; confidence: (B, H)."""
    known = index >= 0
    d = np.where(known, confidence - 1.0, 0.0).astype(np.float32)
    q = np.where(known, confidence if rhs == "c" else confidence - 1.0, 0.0).astype(np.float32)
    users, width = index.shape
    remainder = space.remainder()
    w = space.whitened
    k = space.dimension
    y = np.zeros((users, k), np.float32) if start is None else space.whiten(start)
    residual = np.zeros(users)
    worst = 0
    chunk = max(1, _CHUNK_BYTES // (4 * k * max(width, 1)))
    for lo in range(0, users, chunk):
        part = slice(lo, lo + chunk)
        rows = w[np.maximum(index[part], 0)]
        steps, residual[part] = _gradients(rows, d[part], q[part], y[part], remainder, tolerance)
        worst = max(worst, steps)
    vectors = space.unwhiten(y)
    empty = ~known.any(axis=1)
    vectors[empty] = 0.0
    bad = np.flatnonzero(~((residual <= tolerance) & np.isfinite(vectors).all(axis=1)) & ~empty)
    for user in bad:
        vectors[user] = solve_cholesky(space, index[user], np.asarray(confidence[user], np.float64), rhs)
    return Solution(vectors, worst, residual, empty, len(bad))


def _gradients(
    rows: Float32Array,
    d: Float32Array,
    q: Float32Array,
    y: Float32Array,
    remainder: Float32Array | None,
    tolerance: float,
) -> tuple[int, FloatArray]:
    def apply(p: Float32Array) -> Float32Array:
        t = (rows @ p[:, :, None])[:, :, 0] * d
        out = p + (t[:, None, :] @ rows)[:, 0, :]
        if remainder is not None:
            out += p @ remainder
        return out

    r = (q[:, None, :] @ rows)[:, 0, :] - apply(y)
    p = r.copy()
    rho = np.einsum("bk,bk->b", r, r)
    for step in range(MAX_ITERATIONS + 1):
        size = np.einsum("bk,bk->b", y, y)
        relative = np.sqrt(rho / np.maximum(size, 1e-30))
        if step == MAX_ITERATIONS or (relative <= tolerance).all():
            break
        z = apply(p)
        a = rho / np.maximum(np.einsum("bk,bk->b", p, z), 1e-30)
        y += a[:, None] * p
        r -= a[:, None] * z
        new = np.einsum("bk,bk->b", r, r)
        p *= (new / np.maximum(rho, 1e-30))[:, None]
        p += r
        rho = new
    return step, relative.astype(np.float64)
