"""An item that the generation does not have, solved from the users who chose it: the batch job's item half-step.

    (X'X + ridge I + sum (c-1) x x') y = sum q x,     q = c or c-1 (the policy's `rhs`)

X'X runs over all users of the generation and is frozen in its manifest; the sums over the item's reservoir, the newest
vector of each of its users. Since the half-step is the batch job's own, an item whose users have not moved since gets
the vector that training would have given it (`ops/decisions/0007`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotrs

if TYPE_CHECKING:
    from schemas.records import Manifest

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class UserSide:
    """What an item's half-step takes of the users: X'X (k, k) float64, the ridge of the items, and `rhs`."""

    gramian: FloatArray
    ridge: float
    rhs: str


def user_side(manifest: Manifest) -> UserSide | None:
    """The user side of a generation; None where its manifest has no Gramian: no item is folded in then."""
    if manifest.user_gramian is None:
        return None
    gramian = np.zeros((manifest.dimension, manifest.dimension))
    gramian[np.triu_indices(manifest.dimension)] = manifest.user_gramian
    gramian += np.triu(gramian, 1).T
    given = manifest.hyperparameters.get("ridge_items", 0.0)
    ridge = float(given) if isinstance(given, int | float) and given > 0 else manifest.policy.ridge
    return UserSide(gramian, ridge, manifest.policy.rhs)


def fold_in(users: UserSide, vectors: Float32Array, confidence: NDArray[np.floating]) -> Float32Array:
    """The vector (k,) of an item chosen by users with these vectors (n, k), float32, and confidences (n,).

    The operations and their order are fixed, as in `streamer.factors.solve.solve_cholesky`.
    """
    rows, c = vectors.astype(np.float64), np.asarray(confidence, np.float64)
    system = users.gramian + users.ridge * np.eye(len(users.gramian))
    system += (rows * (c - 1.0)[:, None]).T @ rows
    right = rows.T @ (c if users.rhs == "c" else c - 1.0)
    factor, failed = dpotrf(system, lower=1, clean=0)
    # It fails where weights are so large that the ridge drowns in rounding: any least-squares answer will do.
    exact = np.linalg.lstsq(system, right)[0] if failed else dpotrs(factor, right, lower=1)[0]
    vector: Float32Array = exact.astype(np.float32)
    return vector
