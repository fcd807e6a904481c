"""The ridge of a user's equation; it may grow with the length of the history.

    lambda_u = ridge * (n_u + alpha0 * n_items)^nu

n_u are the items of the history that the space knows, n_items those that the training had events of, frozen in the
manifest (`counts.trained_items`); nu = 0 is the same ridge for all.
Rendle, Krichene, Zhang, Koren 2022, doi 10.1145/3523227.3548486.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.records import Manifest, Policy


@dataclass(frozen=True, slots=True)
class Ridge:
    """base: ridge; offset: alpha0 * n_items."""

    base: float
    nu: float = 0.0
    offset: float = 0.0

    def of(self, known: int) -> float:
        """The ridge of a user of so many known items."""
        ridge: float = self.base * (known + self.offset) ** self.nu
        return ridge

    def of_all(self, known: NDArray[np.integer]) -> NDArray[np.float64]:
        """The same of many users, (B,)."""
        return np.asarray(self.base * (known + self.offset) ** self.nu, np.float64)

    @property
    def floor(self) -> float:
        """The smallest ridge that a user with a known item has."""
        return self.of(1)


def ridge_of(policy: Policy, items: int) -> Ridge:
    """The ridge of a policy's users; ``items``: how many the training had."""
    return Ridge(policy.ridge, policy.ridge_nu, policy.ridge_alpha0 * items)


def ridge_in(manifest: Manifest) -> Ridge:
    """The ridge of a generation's users."""
    # Older manifests do not tell trained items from those that were projected: their users were solved with all.
    return ridge_of(manifest.policy, manifest.counts.get("trained_items", manifest.counts.get("items", 0)))
