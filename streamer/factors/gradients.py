"""Conjugate gradients for a chunk of users at once, in whitened coordinates.

    (I + R + W_n' D W_n) y = W_n' q,   W_n the user's own rows, D = diag(c - 1)

No eigenvalue is far below 1 and few are far above, so a step gains half a digit to a digit and more. Every numpy call
runs over all users of the chunk: two thirds of the time go into the two products with the gathered rows, and what the
calls themselves cost is shared by hundreds of users.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

_TINY = np.float32(1e-30)  # keeps 0/0 out where a user is done or has nothing to solve


def conjugate_gradients(
    rows: Float32Array,
    d: Float32Array,
    q: Float32Array,
    y: Float32Array,
    remainder: Float32Array | None,
    tolerance: float,
    max_steps: int,
    scale: Float32Array | None = None,
) -> tuple[int, Float32Array]:
    """Solve a chunk, in place in `y`, until every residual's norm is at most `tolerance` times the norm of its y.

    Args:
        rows: (C, n, k) gathered whitened rows.
        d: (C, n) weights c - 1, zero for unused slots.
        q: (C, n) weights of the right-hand side, zero for unused slots.
        y: (C, k) the start; the solution afterwards.
        remainder: (k, k) R, None for zero.
        tolerance: relative residual at which to stop.
        max_steps: steps after which to stop in any case.
        scale: (C, k) each user's own S (`space`), which the rows have been multiplied by already; None for ones.

    Returns:
        Steps taken and each user's relative residual (C,).
    """
    # The first residual, right-hand side and operator in one product: W'(q - D W y) - y.
    t = np.matvec(rows, y)
    np.multiply(t, d, out=t)
    np.subtract(q, t, out=t)
    r = np.vecmat(t, rows)
    r -= y
    if remainder is not None:
        r -= _moved(y, remainder, scale)
    p, rho, bound = r.copy(), np.vecdot(r, r), np.float32(tolerance * tolerance)
    z, step = np.empty_like(r), 0
    size = np.vecdot(y, y)
    while step < max_steps and not (rho <= bound * size).all():
        step += 1
        np.matvec(rows, p, out=t)
        np.multiply(t, d, out=t)
        np.vecmat(t, rows, out=z)
        z += p
        if remainder is not None:
            z += _moved(p, remainder, scale)
        alpha = (rho / np.maximum(np.vecdot(p, z), _TINY))[:, None]
        z *= alpha
        r -= z
        y += np.multiply(p, alpha, out=z)
        before, rho = rho, np.vecdot(r, r)
        p *= (rho / np.maximum(before, _TINY))[:, None]
        p += r
        size = np.vecdot(y, y)
    return step, np.sqrt(rho / np.maximum(size, _TINY))


def _moved(y: Float32Array, remainder: Float32Array, scale: Float32Array | None) -> Float32Array:
    """R y, or S R S y."""
    if scale is None:
        plain: Float32Array = y @ remainder
        return plain
    own: Float32Array = scale * y
    own = np.matmul(own, remainder)
    own *= scale
    return own
