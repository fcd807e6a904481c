"""Foretelling with items that move: with still items it is the evaluation, and new items come in on the way."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bootstrap.als import Training
from bootstrap.columns import Columns, columns_of
from bootstrap.evaluate import Trained, evaluate, split
from bootstrap.fit import Recipe, score, train
from bootstrap.job import user_gramian
from bootstrap.model import Model
from bootstrap.online import foretell, popularity
from ops.data import synthetic
from tests.bootstrap.small import KEY, Made, Reading, changed, quiet, recipe

STILL = changed(rhs="c-1", window_ms=10**12, half_life_ms=0, sgd_rate=0.0, new_items_cap=0)
NEW = synthetic.Shape(users=60, items=80, events=1_600, factors=3, days=20, newcomers=0.5)
Cut = tuple[Columns, np.ndarray, np.ndarray, Trained]


@pytest.fixture
def world(reading: Reading) -> Cut:
    """A small world in which half of the items appear on the way, fitted on its first half."""
    columns, _ = columns_of(reading(*synthetic.load(3, NEW).events, policy=STILL), STILL, KEY)
    before, after = split(columns, 0.5)
    plan = Recipe(Training(6, 6, 0, STILL.ridge, STILL.rhs), STILL, 1e-6, 10, 0.5)
    return columns, before, after, train(columns.take(np.sort(before)), plan, quiet, "")


def told(world: Cut, **changes: object) -> dict[str, float]:
    columns, before, after, trained = world
    return foretell(columns, before, after, trained, changed(STILL, **changes)).metrics(10)


def test_with_items_standing_still_it_is_the_evaluation(world: Cut) -> None:
    """Event by event in time here, user by user in rounds there."""
    columns, before, after, trained = world
    whole = evaluate(columns, before, after, trained, STILL, k=10, tolerance=1e-7)
    mine = told(world)
    assert mine["scored_events"] == whole["scored_events"]
    assert mine["recall"] == pytest.approx(whole["recall"], abs=0.002)
    assert mine["ndcg"] == pytest.approx(whole["ndcg"], abs=0.002)
    popular = popularity(columns, before, after, trained.matrix.hashes).metrics(10)
    assert popular["scored_events"] == whole["scored_events"]
    assert popular["all_scored_events"] > popular["scored_events"]


def test_returns_are_done_to_the_user_here_too(reading: Reading) -> None:
    """As in the evaluation: what was returned counts no more, and is not foretold."""
    events = []
    for number, one in enumerate(synthetic.load(3, NEW).events):
        later = {"request_id": f"back{number}", "timestamp": one["timestamp"] + 1}
        events += [one, one | later | {"event_type": "return" if number % 3 else "hide"}]
    columns, _ = columns_of(reading(*events, policy=STILL), STILL, KEY)
    before, after = split(columns, 0.8)
    plan = Recipe(Training(6, 6, 0, STILL.ridge, STILL.rhs), STILL, 1e-6, 10, 0.8)
    trained = train(columns.take(np.sort(before)), plan, quiet, "")
    whole = evaluate(columns, before, after, trained, STILL, k=10, tolerance=1e-7)
    mine = foretell(columns, before, after, trained, STILL).metrics(10)
    assert mine["scored_events"] == whole["scored_events"] > 50
    assert mine["ndcg"] == pytest.approx(whole["ndcg"], abs=0.002)


def test_new_items_are_found_once_they_are_folded_in(world: Cut) -> None:
    """Without fold-in each of their events is a miss."""
    without, with_ = told(world), told(world, new_items_cap=100)
    assert (without["entered"], without["scored_events"]) == (0, with_["scored_events"])
    assert with_["entered"] > 5
    assert with_["all_recall"] > 1.05 * without["all_recall"]


@pytest.mark.parametrize("objective", ["pointwise", "bpr"])
def test_batches_of_signals_move_the_same_items(world: Cut, objective: str) -> None:
    """Users see them a little later, so what is foretold is nearly the same."""
    changes = {"sgd_objective": objective, "sgd_rate": 0.01, "new_items_cap": 100}
    columns, before, after, trained = world
    policy = changed(STILL, **changes)
    one, many = (foretell(columns, before, after, trained, policy, batch=batch).metrics(10) for batch in (1, 8))
    assert one["recall"] != told(world)["recall"]
    assert one["recall"] == pytest.approx(many["recall"], abs=0.02)
    assert one == foretell(columns, before, after, trained, policy).metrics(10)


def test_the_evaluation_reports_it_beside_the_rest(reading: Reading) -> None:
    """`bootstrap evaluate --items-online`."""
    policy = changed(rhs="c-1", window_ms=10**12)
    columns, _ = columns_of(reading(*synthetic.load(3, NEW).events, policy=policy), policy, KEY)
    metrics = score(columns, dataclasses.replace(recipe(policy), items_online=True), quiet)
    assert 0 < metrics["online_recall"] < 1
    assert metrics["online_entered"] > 0
    assert not any(name.startswith("online_") for name in score(columns, recipe(policy), quiet))


def test_the_manifest_carries_the_users_gramian(made: Made) -> None:
    """To nine digits, and what folding in gives with it is the half-step of the fitted model."""
    model: Model = made.model
    triangle = np.triu_indices(model.items.shape[1])
    assert made.manifest.user_gramian is not None
    assert np.allclose(made.manifest.user_gramian, model.gramian_users[triangle], rtol=1e-8)
    wide = dataclasses.replace(model, items=np.zeros((1, 321), np.float32))
    assert user_gramian(wide) is None
