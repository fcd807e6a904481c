"""The compiled half-step of `bootstrap.als`, the twin of its `_Block.descend`; needs numba (the extra `fast`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numba import types

from streamer.factors.kernel import jit as compiling
from streamer.factors.kernel.jit import FAST, jit, number_of

_TINY = np.float32(1e-30)
_f4, _f8, _i8 = types.float32, types.float64, types.int64
_SIGNATURES: Any = [
    _f8(index[::1], index[::1], _f8[::1], _i8, _i8, _f4[:, ::1], _f8[::1], _f8[::1], _f8[::1], _f4, _i8, _f4[:, ::1])
    for index in (types.int32, _i8)
]


@jit(fastmath=FAST)
def _begin(
    items: Any, confidence: Any, start: int, end: int, fixed: Any, diagonal: Any, right: Any, x: Any, b: Any, r: Any
) -> Any:
    """Set b = sum q v and r = b - A x in one pass over the row's pairs; returns sum q^2/c."""
    constant = 0.0
    for j in range(x.size):
        b[j] = 0
        r[j] = -diagonal[j] * x[j]
    for i in range(start, end):
        v, weight = fixed[items[i]], np.float32(confidence[i] - 1.0)
        q, score = weight + right, np.float32(0)
        for j in range(x.size):
            score += v[j] * x[j]
        score = q - weight * score
        for j in range(x.size):
            b[j] += q * v[j]
            r[j] += score * v[j]
        constant += np.float64(q) * np.float64(q) / confidence[i]
    return constant


@jit(fastmath=FAST)
def _apply(items: Any, confidence: Any, start: int, end: int, fixed: Any, diagonal: Any, p: Any, z: Any) -> Any:
    """Set z = A p = diag p + sum (c - 1) (v.p) v; returns p.z."""
    for j in range(p.size):
        z[j] = diagonal[j] * p[j]
    for i in range(start, end):
        v, score = fixed[items[i]], np.float32(0)
        for j in range(p.size):
            score += v[j] * p[j]
        score *= np.float32(confidence[i] - 1.0)
        for j in range(p.size):
            z[j] += score * v[j]
    curvature = np.float32(0)
    for j in range(p.size):
        curvature += p[j] * z[j]
    return curvature


@jit(fastmath=FAST)
def _turn(diagonal: Any, step: Any, before: Any, x: Any, r: Any, p: Any, z: Any) -> Any:
    """Take the step along p, and make p the next direction; returns the new r.r in the preconditioner's measure."""
    rho = np.float32(0)
    for j in range(x.size):
        x[j] += step * p[j]
        r[j] -= step * z[j]
        z[j] = r[j] / diagonal[j]
        rho += r[j] * z[j]
    turn = rho / before if before > _TINY else np.float32(0)
    for j in range(x.size):
        p[j] = z[j] + turn * p[j]
    return rho


def _compile(sources: int) -> Any:
    @jit(_SIGNATURES, fastmath=FAST)
    def descend(
        indptr: Any,
        items: Any,
        confidence: Any,
        first: int,
        last: int,
        fixed: Any,
        values: Any,
        weights: Any,
        ridges: Any,
        right: float,
        steps: int,
        moving: Any,
    ) -> float:
        """Conjugate-gradient steps for rows first to last, in place in ``moving``; returns their share of the loss.

        indptr, items, confidence: of the whole matrix; weights, ridges: of all its rows; fixed (m, k), moving
        (last - first, k): where the fixed side's Gramian is diagonal, values (k,); right: 1 where q = c, 0 where it is
        c - 1.
        """
        if not sources:
            return 0.0
        k, loss = fixed.shape[1], 0.0
        diagonal = np.empty(k, np.float32)
        b, r, p, z = np.empty(k, np.float32), np.empty(k, np.float32), np.empty(k, np.float32), np.empty(k, np.float32)
        for row in range(first, last):
            x, start, end = moving[row - first], indptr[row], indptr[row + 1]
            for j in range(k):
                diagonal[j] = np.float32(max(weights[row] * values[j] + ridges[row], ridges[row]))
            loss += _begin(items, confidence, start, end, fixed, diagonal, right, x, b, r)
            rho = np.float32(0)
            for j in range(k):
                p[j] = r[j] / diagonal[j]
                rho += r[j] * p[j]
            for _ in range(steps):
                curvature = _apply(items, confidence, start, end, fixed, diagonal, p, z)
                # A row that is solved already has no direction left.
                if not curvature > _TINY:
                    break
                rho = _turn(diagonal, rho / curvature, rho, x, r, p, z)
            for j in range(k):
                loss -= np.float64(b[j] + r[j]) * np.float64(x[j])
        return loss

    return descend


descend = _compile(number_of([Path(__file__), Path(compiling.__file__)]))
