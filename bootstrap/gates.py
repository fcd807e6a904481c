"""What a model must reach before it is published; every bound is a setting, every result is in the manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bootstrap.windows import ENOUGH
from schemas.records import Gate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamer.settings import Gates

F32 = npt.NDArray[np.float32]

LEAST = {
    "min_recall": "recall",
    "min_ndcg": "ndcg",
    "min_map": "map",
    "min_hit_rate": "hit_rate",
    "min_new_users_recall": "new_users_recall",
    "min_new_items_recall": "new_items_recall",
    "min_window_recall": "worst_window_recall",
    "min_segment_recall": "worst_segment_recall",
    "min_coverage": "coverage",
    "min_novelty": "novelty",
    "min_known_item_events": "known_item_events",
    "min_known_user_events": "known_user_events",
    "min_user_coverage": "user_coverage",
    "min_item_coverage": "item_coverage",
    "min_ann_recall": "ann_recall",
    "min_median_norm": "median_norm",
}
"""The metric that each lower bound of the settings is for; `MOST` the upper ones."""
MOST = {
    "max_top_share": "top_share",
    "max_gini": "gini",
    "max_suppressed_share": "suppressed_share",
    "max_withdrawn_share": "withdrawn_share",
}


def judge(
    items: F32, users: F32, metrics: dict[str, float], *, dimension: int, norm_cap: float, bounds: Gates
) -> list[Gate]:
    """Hold a model to the bounds. items: (m, k), users: (n, k); metrics as `evaluate` names them.

    The recall must be at least that of recommending what is popular on the same events, and that of the active model
    (`incumbent.py`), each times a factor. Where too few events were there to foretell any, the gates of what is
    foretold pass: there is no proof either way. Of explicit feedback the error counts instead: at most that of biases
    alone, times a factor.
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
        *([] if "rmse" in metrics else [Gate("recall", bound, recall, recall >= bound)]),
        *_foretold(metrics, bounds),
    ]


def _foretold(metrics: dict[str, float], bounds: Gates) -> list[Gate]:
    """The gates that look at one metric each: a bound that asks nothing, or a metric that is not there, is no gate."""
    gates = []
    if metrics.get("scored_events") and "rmse" in metrics:
        bound = bounds.rmse_over_biases * metrics["biases_rmse"]
        gates.append(Gate("rmse", bound, metrics["rmse"], metrics["rmse"] <= bound))
    if metrics.get("active_events", 0) >= ENOUGH and bounds.recall_over_active:
        bound, value = bounds.recall_over_active * metrics["active_recall"], metrics["beside_active_recall"]
        gates.append(Gate("recall_over_active", bound, value, value >= bound))
    if metrics.get("scored_events"):
        metrics = {**metrics, "median_norm": _median_norm(metrics)}
        for name, metric in LEAST.items():
            if (bound := getattr(bounds, name)) and metric in metrics:
                gates.append(Gate(name, bound, metrics[metric], metrics[metric] >= bound))
        for name, metric in MOST.items():
            if (bound := getattr(bounds, name)) < 1 and metric in metrics:
                gates.append(Gate(name, bound, metrics[metric], metrics[metric] <= bound))
    return gates


def _median_norm(metrics: dict[str, float]) -> float:
    """The smaller of the two sides' median norms."""
    return min(metrics.get(f"{side}_norm_median", 0.0) for side in ("user", "item"))


def _largest_norm(vectors: F32) -> float:
    """The largest norm; the largest float stands for one that is not finite, because JSON has no infinity."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    largest = float(np.max(norms, initial=0.0))
    return largest if np.isfinite(largest) else float(np.finfo(np.float64).max)


def failures(gates: Iterable[Gate]) -> list[str]:
    """Each gate that failed, in words."""
    return [f"{gate.name} is {gate.value:.6g} where {gate.bound:.6g} is the bound" for gate in gates if not gate.passed]
