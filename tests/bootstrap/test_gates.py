"""The gates: a model that is not fit to be published is told why."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from bootstrap.gates import failures, judge
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


FORETOLD = {**GOOD, "scored_events": 9.0, "ndcg": 0.1, "coverage": 0.5, "top_share": 0.3, "new_users_recall": 0.05}


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("min_recall", 0.21),
        ("min_ndcg", 0.11),
        ("min_coverage", 0.6),
        ("max_top_share", 0.2),
        ("min_new_users_recall", 0.06),
    ],
)
def test_each_metric_has_a_bound(name: str, bound: float) -> None:
    """Off by default; on, it fails alone; and where nothing was foretold it proves nothing."""
    assert failed(metrics=FORETOLD) == []
    bounds = Gates.model_validate({name: bound})
    assert failed(metrics=FORETOLD, bounds=bounds) == [name]
    assert failed(metrics=GOOD, bounds=bounds) == []
