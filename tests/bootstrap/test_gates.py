"""The gates: a model that is not fit to be published is told why."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from bootstrap.gates import LEAST, MOST, failures, judge
from schemas.records import Gate
from streamer.settings import Gates

GOOD = {"recall": 0.2, "popularity_recall": 0.1, "parity_error": 1e-7}


def gates(**changes: Any) -> list[Gate]:
    values: dict[str, Any] = {
        "items": np.ones((3, 2), np.float32),
        "users": np.ones((4, 2), np.float32),
        "metrics": GOOD,
        "dimension": 2,
        "norm_cap": 10.0,
        "bounds": Gates(),
        **changes,
    }
    return judge(values.pop("items"), values.pop("users"), values.pop("metrics"), **values)


def failed(**changes: Any) -> list[str]:
    return [gate.name for gate in gates(**changes) if not gate.passed]


def test_a_good_model_passes() -> None:
    """Every gate is listed, with what was reached."""
    assert failed() == []
    assert failures(gates()) == []
    assert len(gates()) == 7


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["items", "users"])
def test_a_number_that_is_not_finite_fails(side: str, value: float) -> None:
    """One bad number in one vector is enough, and the gates can still be written as JSON."""
    vectors = np.ones((3, 2), np.float32)
    vectors[1, 1] = value
    assert failed(**{side: vectors}) == ["vectors_not_finite", "largest_norm"]
    assert b"null" not in msgspec.json.encode(gates(**{side: vectors}))


def test_each_bound_holds() -> None:
    """Each gate fails alone, and says so in words."""
    assert failed(dimension=3) == ["vectors_of_other_dimension"]
    assert failed(norm_cap=1.0) == ["largest_norm"]
    assert failed(metrics={**GOOD, "parity_error": 1e-4}) == ["parity_error"]
    assert failed(bounds=Gates(min_users=5)) == ["users"]
    assert failed(bounds=Gates(min_items=4)) == ["items"]
    assert failed(bounds=Gates(recall_over_popularity=2.1)) == ["recall"]
    assert failures(gates(bounds=Gates(min_users=5))) == ["users is 4 where 5 is the bound"]


def test_nothing_to_score_is_no_failure() -> None:
    """A first model of a handful of events can be published: there is no proof against it."""
    assert failed(metrics={}) == []


FORETOLD = {
    **GOOD,
    "scored_events": 9.0,
    "ndcg": 0.1,
    "map": 0.08,
    "hit_rate": 0.5,
    "coverage": 0.5,
    "novelty": 8.0,
    "gini": 0.6,
    "top_share": 0.3,
    "new_users_recall": 0.05,
    "new_items_recall": 0.02,
    "worst_window_recall": 0.1,
    "worst_segment_recall": 0.1,
    "suppressed_share": 0.1,
    "withdrawn_share": 0.0,
    "known_item_events": 0.9,
    "known_user_events": 0.4,
    "user_coverage": 0.9,
    "item_coverage": 0.8,
    "ann_recall": 0.97,
    "item_norm_median": 0.7,
    "user_norm_median": 0.5,
}


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("min_recall", 0.21),
        ("min_ndcg", 0.11),
        ("min_coverage", 0.6),
        ("max_top_share", 0.2),
        ("min_new_users_recall", 0.06),
        ("min_map", 0.09),
        ("min_hit_rate", 0.51),
        ("min_novelty", 8.1),
        ("max_gini", 0.59),
        ("min_new_items_recall", 0.03),
        ("min_window_recall", 0.11),
        ("min_segment_recall", 0.11),
        ("max_suppressed_share", 0.09),
        ("min_known_item_events", 0.91),
        ("min_known_user_events", 0.41),
        ("min_user_coverage", 0.91),
        ("min_item_coverage", 0.81),
        ("min_ann_recall", 0.98),
        ("min_median_norm", 0.51),
    ],
)
def test_each_metric_has_a_bound(name: str, bound: float) -> None:
    """Off by default; on, it fails alone; and where nothing was foretold it proves nothing."""
    assert failed(metrics=FORETOLD) == []
    bounds = Gates.model_validate({name: bound})
    assert failed(metrics=FORETOLD, bounds=bounds) == [name]
    assert failed(metrics=GOOD, bounds=bounds) == []


def test_every_bound_of_the_settings_is_looked_at() -> None:
    """A key that no gate reads would be a promise that nobody keeps."""
    elsewhere = {"recall_over_popularity", "recall_over_active", "rmse_over_biases"}
    elsewhere |= {"max_parity_error", "min_users", "min_items"}
    assert LEAST.keys() | MOST.keys() | elsewhere == set(Gates.model_fields)


def test_a_withdrawn_item_in_a_list_fails() -> None:
    """The one bound that asks something by default: the reader lets no such event through."""
    assert failed(metrics={**FORETOLD, "withdrawn_share": 1e-6}) == ["max_withdrawn_share"]


def test_the_active_model_is_a_bound() -> None:
    """Times a factor; 0 does not ask; without an active model, or with a handful of events, there is no gate."""
    beside = {**FORETOLD, "active_recall": 0.2, "beside_active_recall": 0.15, "active_events": 60.0}
    assert failed(metrics=beside) == ["recall_over_active"]
    assert failed(metrics=beside, bounds=Gates(recall_over_active=0.7)) == []
    assert failed(metrics=beside, bounds=Gates(recall_over_active=0)) == []
    assert failed(metrics=FORETOLD, bounds=Gates(recall_over_active=100)) == []
    assert failed(metrics={**beside, "active_events": 20.0}) == []
