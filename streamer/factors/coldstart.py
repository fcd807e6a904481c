"""Vectors for users about whom nothing usable is known yet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


def average_user(user_vectors: Float32Array) -> Float32Array:
    """Return the mean (k,) of the user vectors (U, k) that are finite and not zero; zeros where there is none."""
    usable = user_vectors[np.isfinite(user_vectors).all(axis=1) & user_vectors.any(axis=1)]
    if not len(usable):
        return np.zeros(user_vectors.shape[1], dtype=np.float32)
    mean: Float32Array = usable.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def average_by_segment(
    user_vectors: Float32Array, segments: Sequence[str], *, least_users: int
) -> dict[str, Float32Array]:
    """Return the average user of each segment of at least `least_users` users; segments: one name a user, "" = none."""
    names = np.asarray(segments, dtype=object)
    found = {name: names == name for name in sorted(set(segments) - {""})}
    return {name: average_user(user_vectors[of]) for name, of in found.items() if of.sum() >= least_users}
