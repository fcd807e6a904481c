"""Turn a new generation's space towards the old one's, so that indexes and caches downstream move little.

Orthogonal Procrustes (Schönemann 1966), over the items that both generations have, V the new and W the old vectors::

    R = argmin |V R - W|_F  over R'R = I     V'W = A S B'     R = A B'

A rotation (or reflection) changes no score, no norm and no Gramian's spectrum: (R'x).(R'v) = x.v.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.float64]


def procrustes(new: Float32Array, old: Float32Array) -> tuple[FloatArray, float]:
    """The rotation that brings ``new`` closest to ``old``, and what remains.

    Args:
        new: (n, k) vectors.
        old: (n, k) those of the same items.

    Returns:
        R (k, k) float64, orthogonal, to be multiplied from the right; and |new R - old| / |old|, 0 where old is zero.

    Raises:
        ValueError: shapes differ, there is no item, or a number is not finite.
    """
    if new.shape != old.shape or not len(new):
        raise ValueError(f"vectors {new.shape} and {old.shape}: as many of the same dimension are needed, at least one")
    v, w = new.astype(np.float64), old.astype(np.float64)
    if not (np.isfinite(v).all() and np.isfinite(w).all()):
        raise ValueError("a vector holds a number that is not finite")
    left, _, right = np.linalg.svd(v.T @ w)
    rotation: FloatArray = left @ right
    size = float(np.linalg.norm(w))
    return rotation, float(np.linalg.norm(v @ rotation - w)) / size if size else 0.0


def rotate(vectors: Float32Array, rotation: FloatArray) -> Float32Array:
    """Vectors (n, k) times R, multiplied in float64."""
    return (vectors @ rotation).astype(np.float32)
