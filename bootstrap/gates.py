"""What a model must reach before it is published; every bound is a setting, every result is in the manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from schemas.records import Gate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamer.settings import Gates

F32 = npt.NDArray[np.float32]


def judge(
    items: F32, users: F32, metrics: dict[str, float], *, dimension: int, norm_cap: float, bounds: Gates
) -> list[Gate]:
    """Hold a model to the bounds. items: (m, k), users: (n, k); metrics as `evaluate` names them.

    The recall must be at least that of recommending what is popular on the same events, times a factor. Where too few
    events were there to foretell any, the gates of what is foretold pass: there is no proof either way. Of explicit
    feedback the error counts instead: at most that of biases alone, times a factor.
    """
    broken = sum(int(np.count_nonzero(~np.isfinite(side).all(axis=1))) for side in (items, users))
    other = sum(side.shape[1] != dimension for side in (items, users))
    largest = max(_largest_norm(items), _largest_norm(users))
    parity = metrics.get("parity_error", 0.0)
    # A vector at the cap was scaled down to it in float32.
    cap = norm_cap * (1 + 1e-6)
    recall, bound = metrics.get("recall", 0.0), bounds.recall_over_popularity * metrics.get("popularity_recall", 0.0)
    return [
        Gate("vectors_not_finite", 0.0, float(broken), broken == 0),
        Gate("vectors_of_other_dimension", 0.0, float(other), other == 0),
        Gate("largest_norm", cap, largest, largest <= cap),
        Gate("parity_error", bounds.max_parity_error, parity, parity <= bounds.max_parity_error),
        Gate("users", float(bounds.min_users), float(len(users)), len(users) >= bounds.min_users),
        Gate("items", float(bounds.min_items), float(len(items)), len(items) >= bounds.min_items),
        Gate("recall", bound, recall, recall >= bound),
        *_foretold(metrics, bounds),
    ]


def _foretold(metrics: dict[str, float], bounds: Gates) -> list[Gate]:
    """The gates that look at one metric each."""
    if not metrics.get("scored_events"):
        return []
    if "rmse" in metrics:
        bound = bounds.rmse_over_biases * metrics["biases_rmse"]
        return [Gate("rmse", bound, metrics["rmse"], metrics["rmse"] <= bound)]
    least = {
        "min_recall": "recall",
        "min_ndcg": "ndcg",
        "min_coverage": "coverage",
        "min_new_users_recall": "new_users_recall",
    }
    gates = [
        Gate(name, bound, metrics[metric], metrics[metric] >= bound)
        for name, metric in least.items()
        if (bound := getattr(bounds, name))
    ]
    if bounds.max_top_share < 1:
        share = metrics["top_share"]
        gates.append(Gate("max_top_share", bounds.max_top_share, share, share <= bounds.max_top_share))
    return gates


def _largest_norm(vectors: F32) -> float:
    """The largest norm; the largest float stands for one that is not finite, because JSON has no infinity."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    largest = float(np.max(norms, initial=0.0))
    return largest if np.isfinite(largest) else float(np.finfo(np.float64).max)


def failures(gates: Iterable[Gate]) -> list[str]:
    """Each gate that failed, in words."""
    return [f"{gate.name} is {gate.value:.6g} where {gate.bound:.6g} is the bound" for gate in gates if not gate.passed]
