"""An item that the generation does not have, solved from the users who chose it: the batch job's item half-step.

    (w X'X + ridge I + sum (c-1) x x') y = sum q x,     q = c or c-1 (the policy's `rhs`)

    w = n^unobserved_power / its mean over the items of the training          ridge = ridge_items (n + alpha0 users)^nu

X'X runs over all users of the generation and is frozen in its manifest, as are the mean and the number of users; the
sums run over the item's reservoir, the newest vector of each of its n users. Since the half-step is the batch job's
own, an item whose users have not moved since gets the vector that training would have given it
(`ops/decisions/0007`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotrs

from streamer.factors.ridge import Ridge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from schemas.records import Manifest, Policy

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

UNOBSERVED_MEAN = "unobserved_mean"
"""The hyper-parameter of a manifest that holds the mean of n^unobserved_power."""


@dataclass(frozen=True, slots=True)
class UserSide:
    """What an item's half-step takes of the users: X'X (k, k) float64, the ridge of the items, and `rhs`.

    power, mean: the policy's ``unobserved_power``, and what n to it is on the average.
    """

    gramian: FloatArray
    ridge: Ridge
    rhs: str
    power: float = 0.0
    mean: float = 1.0

    def weight(self, chosen: int) -> float:
        """What an unobserved pair of an item of so many users weighs."""
        weight: float = chosen**self.power / self.mean
        return weight


def side_of(gramian: FloatArray, policy: Policy, *, ridge_items: float, users: int, mean: float) -> UserSide:
    """The user side of a training with so many users; ``ridge_items``: 0 for the users' ridge."""
    ridge = Ridge(ridge_items or policy.ridge, policy.ridge_nu, policy.ridge_alpha0 * users)
    return UserSide(gramian, ridge, policy.rhs, policy.unobserved_power, mean)


def user_side(manifest: Manifest) -> UserSide | None:
    """The user side of a generation; None where its manifest lacks a number that this takes: none is folded in then."""
    policy, told = manifest.policy, manifest.hyperparameters
    mean, users = _number(told.get(UNOBSERVED_MEAN)), _trained_users(manifest.counts)
    if manifest.user_gramian is None or (policy.unobserved_power and mean is None):
        return None
    if policy.ridge_nu and policy.ridge_alpha0 and not users:
        return None
    gramian = np.zeros((manifest.dimension, manifest.dimension))
    gramian[np.triu_indices(manifest.dimension)] = manifest.user_gramian
    gramian += np.triu(gramian, 1).T
    ridge_items = _number(told.get("ridge_items")) or 0.0
    return side_of(gramian, policy, ridge_items=ridge_items, users=users, mean=mean or 1.0)


def _trained_users(counts: Mapping[str, int]) -> int:
    return counts.get("trained_users", counts.get("users", 0))


def _number(given: object) -> float | None:
    return float(given) if isinstance(given, int | float) and given > 0 else None


def fold_in(users: UserSide, vectors: Float32Array, confidence: NDArray[np.floating]) -> Float32Array:
    """The vector (k,) of an item chosen by users with these vectors (n, k), float32, and confidences (n,).

    The operations and their order are fixed, as in `streamer.factors.solve.solve_cholesky`.
    """
    rows, c = vectors.astype(np.float64), np.asarray(confidence, np.float64)
    system = users.weight(len(rows)) * users.gramian + users.ridge.of(len(rows)) * np.eye(len(users.gramian))
    system += (rows * (c - 1.0)[:, None]).T @ rows
    right = rows.T @ (c if users.rhs == "c" else c - 1.0)
    factor, failed = dpotrf(system, lower=1, clean=0)
    # It fails where weights are so large that the ridge drowns in rounding: any least-squares answer will do.
    exact = np.linalg.lstsq(system, right)[0] if failed else dpotrs(factor, right, lower=1)[0]
    vector: Float32Array = exact.astype(np.float32)
    return vector
