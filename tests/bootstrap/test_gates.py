"""The gates: a model that is not fit to be published is told why."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from bootstrap.gates import KEPT, LEAST, MOST, failures, judge, key_of, reached
from schemas.records import Gate
from streamer.settings import Gates

GOOD = {"scored_events": 90.0, "recall": 0.2, "popularity_recall": 0.1, "parity_error": 1e-7}
NOTHING = {"parity_error": 1e-7}


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
    assert failures(gates(), GOOD) == []
    assert len(gates(metrics={**GOOD, "withdrawn_share": 0.0})) == 9


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
    assert failures(gates(bounds=Gates(min_users=5)), GOOD) == ["min_users is 4 where 5 is the bound"]


def test_a_gate_is_told_by_the_setting_that_bounds_it() -> None:
    """What is written into the manifest keeps its name."""
    told = {key_of(gate) for gate in gates()} - {"policy.norm_cap"}
    assert told - Gates.model_fields.keys() == {"vectors_not_finite", "vectors_of_other_dimension", "sides_all_zero"}
    assert {gate.name for gate in gates()} >= {"recall", "users", "items", "parity_error", "largest_norm"}


@pytest.mark.parametrize("side", ["items", "users"])
def test_a_side_of_zeros_fails(side: str) -> None:
    """Nothing can be told by it, whatever was measured."""
    assert failed(**{side: np.zeros((3, 2), np.float32)}) == ["sides_all_zero"]
    assert failed(**{side: np.zeros((3, 2), np.float32)}, metrics=NOTHING) == ["sides_all_zero"]


def test_nothing_to_score_is_no_failure_of_a_first_model() -> None:
    """It can be published, and no gate claims to have been passed by what nobody measured."""
    assert failed(metrics=NOTHING) == []
    assert not {"recall", "rmse", *LEAST, *MOST} & {gate.name for gate in gates(metrics=NOTHING)}


def test_nothing_to_score_is_a_failure_beside_an_active_model() -> None:
    """There is something to lose; said with what to do."""
    assert failed(metrics=NOTHING, successor=True) == ["recall_over_active"]
    [told] = failures(gates(metrics=NOTHING, successor=True), NOTHING)
    assert told.startswith("recall_over_active not measured: 0 events scored, 50 are needed (train on more events, or")
    few = {**GOOD, "scored_events": 49.0}
    assert failed(metrics=few, successor=True) == ["recall_over_active"]
    assert failed(metrics=few, successor=True, bounds=Gates(recall_over_active=0)) == []
    # Enough events, and an artifact that is gone: a remark, unless it was asked for.
    assert failed(metrics=GOOD, successor=True) == []
    assert failed(metrics=GOOD, successor=True, bounds=Gates(recall_over_active=0.7)) == ["recall_over_active"]


def test_a_factor_that_was_set_must_be_measured() -> None:
    """As any other bound; 0 asks nothing."""
    assert failed(metrics=NOTHING, bounds=Gates(recall_over_popularity=1.2)) == ["recall"]
    assert failed(metrics=NOTHING, bounds=Gates(recall_over_popularity=0)) == []
    rated = {"rmse": 0.0, "biases_rmse": 0.0, "scored_events": 0.0}
    assert failed(metrics=rated) == []
    assert failed(metrics=rated, bounds=Gates(rmse_over_biases=0.9)) == ["rmse"]


def test_ratings_have_no_ranking_to_be_bounded() -> None:
    """A bound on one is a bound that nobody keeps, so it fails."""
    rated = {"rmse": 0.8, "biases_rmse": 0.9, "scored_events": 90.0}
    assert failed(metrics=rated) == []
    assert failures(gates(metrics=rated, bounds=Gates(min_recall=0.1)), rated) == [
        "min_recall not measured: ratings are not ranked"
    ]


def test_what_the_active_model_has_must_be_kept() -> None:
    """The newcomer's case: 604 items where 1,218 were, 47 users where 478 were; a slow change passes."""
    lost = {"active_items": 1_218.0, "active_items_kept": 604.0, "active_users": 478.0, "active_users_kept": 47.0}
    beside = {**GOOD, "active_events": 90.0, "active_recall": 0.1, "beside_active_recall": 0.1}
    assert failed(metrics=beside | lost, successor=True) == list(KEPT)
    assert failures(gates(metrics=beside | lost, successor=True), beside | lost)[0] == (
        "items_over_active is 0.495895 where 0.8 is the bound (what was trained from a file must also be in the topic, "
        "or be given again with --events)"
    )
    off = Gates(items_over_active=0, users_over_active=0)
    assert failed(metrics=beside | lost, successor=True, bounds=off) == []
    slow = {"active_items": 1_218.0, "active_items_kept": 1_100.0, "active_users": 478.0, "active_users_kept": 300.0}
    assert failed(metrics=beside | slow, successor=True) == []
    assert failed(metrics=beside, successor=True) == []
    assert failed(metrics=beside, successor=True, bounds=Gates(items_over_active=0.9)) == ["items_over_active"]


def test_what_was_reached_is_told() -> None:
    """Value and bound, or why there is no value."""
    one = {gate.name: reached(gate, GOOD) for gate in gates(bounds=Gates(min_map=0.1))}
    assert one["recall"] == "0.2 (bound 0.1)"
    assert one["min_map"] == "not measured: it is not there"


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
    """Off by default; on, it fails alone; and where it could not be measured it fails as well."""
    assert failed(metrics=FORETOLD) == []
    bounds = Gates.model_validate({name: bound})
    assert failed(metrics=FORETOLD, bounds=bounds) == [name]
    assert failed(metrics=NOTHING, bounds=bounds) == [name]
    [told] = failures(gates(metrics=NOTHING, bounds=bounds), NOTHING)
    assert told.startswith(f"{name} not measured: ")


def test_every_bound_of_the_settings_is_looked_at() -> None:
    """A key that no gate reads would be a promise that nobody keeps."""
    elsewhere = {"recall_over_popularity", "recall_over_active", "rmse_over_biases"}
    elsewhere |= {"max_parity_error", "min_users", "min_items", *KEPT}
    assert LEAST.keys() | MOST.keys() | elsewhere == set(Gates.model_fields)


def test_a_withdrawn_item_in_a_list_fails() -> None:
    """The one bound that asks something by default: the reader lets no such event through."""
    assert failed(metrics={**FORETOLD, "withdrawn_share": 1e-6}) == ["max_withdrawn_share"]


def test_the_active_model_is_a_bound() -> None:
    """Times a factor; 0 does not ask; without an active model there is no gate."""
    beside = {**FORETOLD, "active_recall": 0.2, "beside_active_recall": 0.15, "active_events": 60.0}
    assert failed(metrics=beside, successor=True) == ["recall_over_active"]
    assert failed(metrics=beside, successor=True, bounds=Gates(recall_over_active=0.7)) == []
    assert failed(metrics=beside, successor=True, bounds=Gates(recall_over_active=0)) == []
    assert failed(metrics=FORETOLD, bounds=Gates(recall_over_active=100)) == []
