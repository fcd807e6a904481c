"""The Gramian of item or user vectors, in one place for batch and stream."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_BLOCK = 8192


def gramian(
    vectors: NDArray[np.float32], weights: FloatArray | None = None, order: NDArray[np.integer] | None = None
) -> FloatArray:
    """V'V, or V' diag(w) V, (k, k) in float64, added up block by block.

    vectors: (n, k); weights: (n,), None for 1; order: which rows and in which order, None for all as they are.
    """
    out = np.zeros((vectors.shape[1], vectors.shape[1]))
    count = len(vectors) if order is None else len(order)
    for start in range(0, count, _BLOCK):
        part = slice(start, start + _BLOCK) if order is None else order[start : start + _BLOCK]
        rows = vectors[part].astype(np.float64)
        out += rows.T @ rows if weights is None else (rows.T * weights[part]) @ rows
    return out
