"""Conjugate gradients for a chunk of users at once, in whitened coordinates.

    (I + R + W_n' D W_n) y = W_n' q,   W_n the user's own rows, D = diag(c - 1)

The eigenvalues start at 1 and the large ones are few, so a step gains most of a digit. Every numpy call runs over all
users of the chunk; of a step's time two thirds are the two products with the gathered rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

_TINY = np.float32(1e-30)  # keeps 0/0 out where a user is done or has nothing to solve
_COMPACT = 0.5  # go on with the unfinished users alone once they are fewer than this share of the chunk


def conjugate_gradients(
    rows: Float32Array,
    d: Float32Array,
    q: Float32Array,
    y: Float32Array,
    remainder: Float32Array | None,
    tolerance: float,
    max_steps: int,
) -> tuple[int, Float32Array]:
    """Solve a chunk; `y` is the start and, in place, the end.

    Args:
        rows: (C, n, k) gathered whitened rows. d, q: (C, n), zero for unused slots. y: (C, k). remainder: (k, k).
        tolerance: stop where the residual's norm is at most this times the norm of y.

    Returns:
        Steps taken and each user's relative residual (C,) at its end.
    """
    out, residual = y, np.empty(len(y), dtype=np.float32)
    users: NDArray[np.intp] | None = None
    t = np.matvec(rows, y)
    np.multiply(t, d, out=t)
    np.subtract(q, t, out=t)
    r = np.vecmat(t, rows)
    r -= y
    if remainder is not None:
        r -= y @ remainder
    p, rho, bound = r.copy(), np.vecdot(r, r), np.float32(tolerance * tolerance)
    for step in range(max_steps + 1):
        size = np.vecdot(y, y)
        open_ = rho > bound * size
        left = np.count_nonzero(open_)
        if not left or step == max_steps:
            break
        if left < _COMPACT * len(open_):
            _finish(out, residual, users, y, rho, size)
            keep = np.flatnonzero(open_)
            users = keep if users is None else users[keep]
            rows, d, y, r, p, rho = rows[keep], d[keep], y[keep], r[keep], p[keep], rho[keep]
        t = np.matvec(rows, p)
        t *= d
        z = np.vecmat(t, rows)
        z += p
        if remainder is not None:
            z += p @ remainder
        alpha = (rho / np.maximum(np.vecdot(p, z), _TINY))[:, None]
        z *= alpha
        r -= z
        y += np.multiply(p, alpha, out=z)
        new = np.vecdot(r, r)
        p *= (new / np.maximum(rho, _TINY))[:, None]
        p += r
        rho = new
    _finish(out, residual, users, y, rho, size)
    return step, residual


def _finish(
    out: Float32Array,
    residual: Float32Array,
    users: NDArray[np.intp] | None,
    y: Float32Array,
    rho: Float32Array,
    size: Float32Array,
) -> None:
    """Write the users at hand (all, where `users` is None) back to the chunk's results."""
    relative = np.sqrt(rho / np.maximum(size, _TINY))
    if users is None:
        residual[:] = relative
    else:
        out[users], residual[users] = y, relative
