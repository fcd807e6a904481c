"""No vector that is not finite leaves, and none longer than the norm cap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_CLOSE = 1.0 - 1e-4  # a float32 sum of squares is surer than this


@dataclass(frozen=True, slots=True)
class Guarded:
    """vectors: (B, k) float32, all finite, zeros where `finite` is false; finite, capped: (B,) what was found."""

    vectors: Float32Array
    finite: BoolArray
    capped: BoolArray


def guard(vectors: Float32Array, norm_cap: float) -> Guarded:
    """Check vectors (B, k); those longer than `norm_cap` are scaled down to it. The argument is never changed."""
    with np.errstate(over="ignore", invalid="ignore"):
        # A NaN, an infinity and an overflow all fail this one comparison: good vectors are looked at once.
        doubtful = np.flatnonzero(~(np.vecdot(vectors, vectors) <= norm_cap * norm_cap * _CLOSE))
    finite, capped = np.ones(len(vectors), bool), np.zeros(len(vectors), bool)
    if not doubtful.size:
        return Guarded(vectors, finite, capped)
    rows = vectors[doubtful].astype(np.float64)
    good = np.isfinite(rows).all(axis=1)
    rows[~good] = 0.0
    norm = np.linalg.norm(rows, axis=1)
    long = norm > norm_cap
    rows[long] *= (norm_cap / norm[long])[:, None]
    finite[doubtful], capped[doubtful] = good, long
    out = vectors.copy()
    out[doubtful] = rows
    return Guarded(out, finite, capped)
