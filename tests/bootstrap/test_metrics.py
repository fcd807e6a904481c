"""The measures: those of a ranking agree with ir-measures, those of lists with a slow count."""

from __future__ import annotations

from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import AP, RR, R, Success, nDCG

from bootstrap.metrics import gini, lorenz, norms, of_vectors, ranked, share_of_places, shown

RANKINGS = st.lists(st.tuples(st.integers(0, 4), st.one_of(st.none(), st.integers(0, 29))), min_size=1, max_size=40)


@given(events=RANKINGS, k=st.integers(1, 20))
def test_they_agree_with_ir_measures(events: list[tuple[int, int | None]], k: int) -> None:
    """Each event a query with one relevant item among thirty, or one that the run lacks; any k."""
    qrels = {f"q{number}": {"wanted": 1} for number in range(len(events))}
    run = {
        f"q{number}": {"wanted" if rank == at else f"other{rank}": float(100 - rank) for rank in range(30)}
        for number, (_, at) in enumerate(events)
    }
    position = np.array([np.inf if at is None else at for _, at in events])
    user = np.array([owner for owner, _ in events])
    found = ranked(position, user, k)
    theirs = ir_measures.calc_aggregate([R @ k, nDCG @ k, AP @ k, RR @ k], qrels, run)
    assert found["recall"] == pytest.approx(theirs[R @ k], abs=1e-9)
    assert found["ndcg"] == pytest.approx(theirs[nDCG @ k], abs=1e-9)
    assert found["map"] == pytest.approx(theirs[AP @ k], abs=1e-9)
    assert found["map"] == pytest.approx(theirs[RR @ k], abs=1e-9)
    success: dict[int, list[float]] = {}
    for one in ir_measures.iter_calc([Success @ k], qrels, run):
        success.setdefault(events[int(one.query_id[1:])][0], []).append(one.value)
    assert found["hit_rate"] == pytest.approx(np.mean([max(hits) for hits in success.values()]))


def test_nothing_scored_is_0() -> None:
    """No event, no division."""
    assert ranked(np.zeros(0), np.zeros(0, np.int64), 10) == {"recall": 0, "ndcg": 0, "map": 0, "hit_rate": 0}


@given(counts=st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_gini_is_half_the_mean_difference(counts: list[int]) -> None:
    """The definition: the mean of |a - b| over all pairs, by twice the mean; the Lorenz curve encloses it."""
    values = np.array(counts)
    if not values.sum():
        assert gini(values) == 0
        return
    expected = np.abs(values[:, None] - values).mean() / (2 * values.mean())
    assert gini(values) == pytest.approx(expected, abs=1e-9)
    share, taken = lorenz(values, points=len(values) + 1)
    assert taken[0] == 0
    assert taken[-1] == pytest.approx(1)
    assert (np.diff(taken, n=2) <= 1e-12).all()
    assert 2 * np.trapezoid(taken, share) - 1 == pytest.approx(expected, abs=1e-9)


@given(data=st.data())
def test_what_lists_show(data: Any) -> None:
    """Coverage, novelty and the top's share, counted one place at a time."""
    m = data.draw(st.integers(1, 250))
    lists = np.array(data.draw(st.lists(st.lists(st.integers(-1, m - 1), min_size=3, max_size=3), max_size=20)))
    lists = lists.reshape(-1, 3).astype(np.int32)
    events = np.array(data.draw(st.lists(st.integers(0, 9), min_size=m, max_size=m)))
    places = [item for item in lists.ravel().tolist() if item >= 0]
    found = shown(lists, events)
    assert found["coverage"] == pytest.approx(len(set(places)) / m)
    top = sorted(range(m), key=lambda item: (-events[item], item))[: max(m // 100, 1)]
    share = np.maximum(events, 1) / max(events.sum(), 1)
    if places:
        assert found["novelty"] == pytest.approx(np.mean([-np.log2(share[item]) for item in places]))
        assert found["top_share"] == pytest.approx(np.mean([item in top for item in places]))
        bad = np.arange(m) % 2 == 0
        assert share_of_places(lists, bad) == pytest.approx(np.mean([item % 2 == 0 for item in places]))


def test_novelty_is_of_an_items_share_of_all_events() -> None:
    """An item of a quarter of the events tells two bits, one of an eighth three."""
    assert shown(np.array([[0]], np.int32), np.array([2, 4, 1, 1]))["novelty"] == 2.0
    assert shown(np.array([[2, 3]], np.int32), np.array([2, 4, 1, 1]))["novelty"] == 3.0


def test_norms_leave_out_what_is_not_finite() -> None:
    """The gate on finite numbers speaks of those; the norms stay numbers."""
    vectors = np.array([[3, 4], [np.nan, 0], [0, 1], [np.inf, 1]], np.float32)
    assert norms(vectors) == {"norm_median": 3.0, "norm_p99": pytest.approx(4.96), "norm_max": 5.0}
    assert norms(vectors[1:2]) == {}
    metrics = of_vectors(vectors, vectors[:1], np.array([True, False, False, True]))
    assert metrics["user_coverage"] == 0.5
    assert metrics["user_norm_max"] == metrics["item_norm_max"] == 5.0
