"""What a model must reach before it is published; every bound is a setting, every result is in the manifest.

A bound that was set, and whose metric could not be measured, fails. A default one does not: a first model of a handful
of events can be published. Where another model is active there is something to lose, and the comparison must be made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bootstrap.windows import ENOUGH
from schemas.records import Gate
from streamer.settings import Gates

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
KEPT = {"items_over_active": "items", "users_over_active": "users"}
"""What of the active model must still be there."""

# Where a gate of the manifest is named otherwise than the setting that bounds it.
_KEYS = {
    "recall": "recall_over_popularity",
    "rmse": "rmse_over_biases",
    "users": "min_users",
    "items": "min_items",
    "parity_error": "max_parity_error",
    "largest_norm": "policy.norm_cap",
}
_OF_VECTORS = frozenset({"user_coverage", "item_coverage", "ann_recall", "median_norm"})
_WHY = {
    "worst_window_recall": f"no window has {ENOUGH} scored events",
    "worst_segment_recall": f"no segment of bootstrap.segment_by has {ENOUGH} scored events",
    "ann_recall": "there are too few vectors for an index",
}
# What to do where it is not plain: to have it measured, and to pass.
_TO_MEASURE = {
    "recall_over_active": "train on more events, or set gates.recall_over_active = 0 to publish it uncompared",
}
_TO_PASS = dict.fromkeys(
    KEPT, "what was trained from a file must also be in the topic, or be given again with --events"
)


def judge(
    items: F32,
    users: F32,
    metrics: dict[str, float],
    *,
    dimension: int,
    norm_cap: float,
    bounds: Gates,
    successor: bool = False,
) -> list[Gate]:
    """Hold a model to the bounds. items: (m, k), users: (n, k); metrics as `evaluate` names them.

    ``successor``: there is a generation before it. The recall must be at least that of recommending what is popular on
    the same events, and that of the active model (`incumbent.py`), each times a factor. Of explicit feedback the error
    counts instead: at most that of biases alone, times a factor.
    """
    broken = sum(int(np.count_nonzero(~np.isfinite(side).all(axis=1))) for side in (items, users))
    other = sum(side.shape[1] != dimension for side in (items, users))
    norms = _largest_norm(items), _largest_norm(users)
    zero, largest = norms.count(0.0), max(norms)
    parity = metrics.get("parity_error", 0.0)
    # A vector at the cap was scaled down to it in float32.
    cap = norm_cap * (1 + 1e-6)
    return [
        Gate("vectors_not_finite", 0.0, float(broken), broken == 0),
        Gate("vectors_of_other_dimension", 0.0, float(other), other == 0),
        Gate("sides_all_zero", 0.0, float(zero), zero == 0),
        Gate("largest_norm", cap, largest, largest <= cap),
        Gate("parity_error", bounds.max_parity_error, parity, parity <= bounds.max_parity_error),
        Gate("users", float(bounds.min_users), float(len(users)), len(users) >= bounds.min_users),
        Gate("items", float(bounds.min_items), float(len(items)), len(items) >= bounds.min_items),
        *foretold(metrics, bounds, successor=successor),
    ]


def foretold(metrics: dict[str, float], bounds: Gates, *, successor: bool) -> list[Gate]:
    """The gates that look at metrics alone: a bound that asks nothing is no gate, a default not measured neither."""
    found = _beside_the_simplest(metrics, bounds)
    if successor:
        found += _beside_the_active(metrics, bounds)
    metrics = {**metrics, **_median_norm(metrics)}
    for name, metric in LEAST.items():
        if bound := getattr(bounds, name):
            value = metrics.get(metric, 0.0)
            found.append(Gate(name, bound, value, not unmeasured(name, metrics) and value >= bound))
    for name, metric in MOST.items():
        if (bound := getattr(bounds, name)) < 1:
            value = metrics.get(metric, 1.0)
            found.append(Gate(name, bound, value, not unmeasured(name, metrics) and value <= bound))
    return [
        gate for gate in found if not unmeasured(gate.name, metrics) or _must_be_measured(gate.name, metrics, bounds)
    ]


def _beside_the_simplest(metrics: Mapping[str, float], bounds: Gates) -> list[Gate]:
    """Popularity, or of ratings biases."""
    scored = bool(metrics.get("scored_events"))
    if "rmse" in metrics:
        bound = bounds.rmse_over_biases * metrics["biases_rmse"]
        return [Gate("rmse", bound, metrics["rmse"], scored and metrics["rmse"] <= bound)]
    recall, bound = metrics.get("recall", 0.0), bounds.recall_over_popularity * metrics.get("popularity_recall", 0.0)
    return [Gate("recall", bound, recall, scored and recall >= bound)]


def _beside_the_active(metrics: Mapping[str, float], bounds: Gates) -> list[Gate]:
    found = []
    if bounds.recall_over_active:
        bound = bounds.recall_over_active * metrics.get("active_recall", 0.0)
        value = metrics.get("beside_active_recall", 0.0)
        found.append(
            Gate("recall_over_active", bound, value, not unmeasured("recall_over_active", metrics) and value >= bound)
        )
    for name, what in KEPT.items():
        if bound := getattr(bounds, name):
            value = metrics.get(f"active_{what}_kept", 0.0) / max(metrics.get(f"active_{what}", 0.0), 1.0)
            found.append(Gate(name, bound, value, not unmeasured(name, metrics) and value >= bound))
    return found


def unmeasured(name: str, metrics: Mapping[str, float]) -> str:
    """Why the metric of a gate could not be measured, in words; "" where it was."""
    scored = int(metrics.get("scored_events", 0))
    if name == "recall_over_active":
        return _not_compared(metrics)
    if name in KEPT:
        return "" if metrics.get(f"active_{KEPT[name]}") else "the active model's artifact cannot be read"
    if name in ("recall", "rmse"):
        return "" if scored else "0 events scored"
    metric = LEAST.get(name) or MOST.get(name)
    if metric is None or (metric in _OF_VECTORS and metric in {**metrics, **_median_norm(metrics)}):
        return ""
    if "rmse" in metrics:
        return "ratings are not ranked"
    if not scored and metric not in _OF_VECTORS:
        return "0 events scored"
    return "" if metric in metrics else _WHY.get(metric, "it is not there")


def _not_compared(metrics: Mapping[str, float]) -> str:
    if (events := _compared(metrics)) < ENOUGH:
        return f"{events} events scored, {ENOUGH} are needed"
    return "" if "active_recall" in metrics else "the active model is of ratings, or its artifact cannot be read"


def _compared(metrics: Mapping[str, float]) -> int:
    """On how many events a model stands beside the active one, or could."""
    return int(metrics.get("active_events", metrics.get("scored_events", 0)))


def _must_be_measured(name: str, metrics: Mapping[str, float], bounds: Gates) -> bool:
    """Whether a gate that was not measured fails, or is none: see the module's docstring."""
    if name == "recall_over_active" and _compared(metrics) < ENOUGH:
        return True
    key = _KEYS.get(name, name)
    bound = getattr(bounds, key)
    # A factor of 0 asks nothing.
    return bound != Gates.model_fields[key].default and (bool(bound) or key in MOST)


def _median_norm(metrics: Mapping[str, float]) -> dict[str, float]:
    """The smaller of the two sides' median norms."""
    sides = [metrics[name] for side in ("user", "item") if (name := f"{side}_norm_median") in metrics]
    return {"median_norm": min(sides)} if sides else {}


def _largest_norm(vectors: F32) -> float:
    """The largest norm; the largest float stands for one that is not finite, because JSON has no infinity."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    largest = float(np.max(norms, initial=0.0))
    return largest if np.isfinite(largest) else float(np.finfo(np.float64).max)


def key_of(gate: Gate) -> str:
    """The setting that bounds a gate; a gate without one has its own name."""
    return _KEYS.get(gate.name, gate.name)


def reached(gate: Gate, metrics: Mapping[str, float]) -> str:
    """What a gate found, in words."""
    why = unmeasured(gate.name, metrics)
    return f"not measured: {why}" if why else f"{gate.value:.6g} (bound {gate.bound:.6g})"


def failures(gates: Iterable[Gate], metrics: Mapping[str, float]) -> list[str]:
    """Each gate that failed, in words, with what to do where that is not plain."""
    found = []
    for gate in gates:
        if gate.passed:
            continue
        why = unmeasured(gate.name, metrics)
        said = f"not measured: {why}" if why else f"is {gate.value:.6g} where {gate.bound:.6g} is the bound"
        advice = (_TO_MEASURE if why else _TO_PASS).get(gate.name)
        found.append(f"{key_of(gate)} {said}" + (f" ({advice})" if advice else ""))
    return found
