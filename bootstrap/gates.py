"""What a model must reach before it is published; every bound is a setting, every result is in the manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from schemas.records import Gate

if TYPE_CHECKING:
    from collections.abc import Iterable

F32 = npt.NDArray[np.float32]


class Bounds(Protocol):
    """The bounds of `[bootstrap.gates]`."""

    @property
    def recall_over_popularity(self) -> float:
        """The least that recall@k may be, as a multiple of the recall of recommending what is popular."""

    @property
    def max_norm(self) -> float:
        """The largest norm that any vector may have; 0 takes the policy's norm cap."""

    @property
    def min_users(self) -> int:
        """The fewest users to train on."""

    @property
    def min_items(self) -> int:
        """The fewest items to train on."""


def judge(
    items: F32, users: F32, metrics: dict[str, float], *, dimension: int, norm_cap: float, bounds: Bounds
) -> list[Gate]:
    """Hold a model to the bounds. items: (n, k), users: (m, k); metrics as `evaluate` names them."""
    broken = np.count_nonzero(~np.isfinite(items).all(axis=1)) + np.count_nonzero(~np.isfinite(users).all(axis=1))
    other = (items.shape[1] != dimension) + (users.shape[1] != dimension)
    largest = max(_largest_norm(items), _largest_norm(users))
    cap = bounds.max_norm or norm_cap
    gates = [
        Gate("vectors_not_finite", 0.0, float(broken), broken == 0),
        Gate("vectors_of_other_dimension", 0.0, float(other), other == 0),
        Gate("largest_norm", cap, largest, largest <= cap),
        Gate("users", float(bounds.min_users), float(len(users)), len(users) >= bounds.min_users),
        Gate("items", float(bounds.min_items), float(len(items)), len(items) >= bounds.min_items),
    ]
    return gates + [_recall(metrics, bounds.recall_over_popularity)]


def _recall(metrics: dict[str, float], factor: float) -> Gate:
    """Recall against popularity; with nothing to score there is no proof either way, and the gate is open at 0."""
    bound = factor * metrics.get("popularity_recall", 0.0)
    reached = metrics.get("recall", 0.0)
    return Gate("recall", bound, reached, reached >= bound)


def _largest_norm(vectors: F32) -> float:
    """The largest norm; infinite when a vector is not finite, because a manifest holds numbers only."""
    if not len(vectors):
        return 0.0
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    largest = float(np.max(norms))
    return largest if np.isfinite(largest) else float(np.finfo(np.float64).max)


def failures(gates: Iterable[Gate]) -> list[str]:
    """Each gate that failed, in words."""
    return [f"{gate.name} is {gate.value:.6g} where {gate.bound:.6g} is the bound" for gate in gates if not gate.passed]


def metrics_of(gates: Iterable[Gate]) -> dict[str, Any]:
    """The gates as a table for people and for ``--json``."""
    return {gate.name: {"bound": gate.bound, "value": gate.value, "passed": gate.passed} for gate in gates}
