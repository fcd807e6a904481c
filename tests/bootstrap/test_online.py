"""Foretelling with items that move: with still items it is the evaluation, and new items come in on the way."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bootstrap.als import Training, half_step
from bootstrap.columns import Columns, columns_of
from bootstrap.evaluate import Trained, evaluate, split
from bootstrap.fit import Recipe, score, train
from bootstrap.job import Lineage, make, user_gramian
from bootstrap.job import recipe as recipe_of
from bootstrap.matrix import build, weights_of
from bootstrap.model import Model
from bootstrap.online import foretell, popularity
from ops.data import synthetic
from streamer.factors.newcomer import fold_in, user_side
from tests.bootstrap.small import KEY, NOW_MS, Made, Reading, changed, event, quiet, recipe, settings_of

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


def test_newcomers_can_be_left_out_of_the_lists(world: Cut) -> None:
    """Users learn from them all the same; who competes less stands no lower."""
    columns, before, after, trained = world
    policy = changed(STILL, new_items_cap=100)
    all_, alone = (
        foretell(columns, before, after, trained, policy, newcomers_compete=compete) for compete in (True, False)
    )
    mine = all_.generation & (all_.rank >= 0)
    assert alone.entered == all_.entered
    assert (alone.rank[mine] <= all_.rank[mine]).all()
    assert (alone.rank[mine] < all_.rank[mine]).any()


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


@pytest.mark.parametrize(
    ("options", "power", "ridge_items"),
    [
        ({}, 0.0, 0.5),
        ({"ridge_nu": 1.0}, 0.0, 0.0),
        ({"ridge_nu": 0.5, "ridge_alpha0": 0.1}, 0.0, 0.5),
        ({}, 0.75, 0.0),
        ({"ridge_nu": 0.5, "ridge_alpha0": 0.1}, 0.75, 0.5),
    ],
)
def test_a_new_item_is_the_batch_half_step(
    options: dict[str, Any], power: float, ridge_items: float, reading: Reading, tmp_path: Path
) -> None:
    """From what the manifest carries, an item's users give it the vector that a half-step of the training would."""
    policy = changed(ridge=2.0, unobserved_power=power, **options)
    settings = settings_of(tmp_path, FACTORS_BOOTSTRAP__SOLVER="cholesky").model_copy(update={"policy": policy})
    settings = settings.model_copy(
        update={"bootstrap": settings.bootstrap.model_copy(update={"ridge_items": ridge_items})}
    )
    events = synthetic.load(3, NEW).rebase(NOW_MS).events
    log = reading(*events, event("hider", "i1", "hide"), policy=policy)
    manifest, model = make(settings, log, Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
    columns, _ = columns_of(log, policy, KEY)
    matrix = build(columns, model.users, policy, int(columns.at.max()))
    users = np.where((np.diff(model.users.history_start) > 0)[:, None], model.user_vectors, np.float32(0))
    exact = np.zeros_like(model.items)
    weights = weights_of(matrix, policy.unobserved_power)
    half_step(matrix.by_item, users, exact, recipe_of(settings).training, items=True, weights=weights)
    side = user_side(manifest)
    assert side is not None
    for item in range(0, len(exact), 7):
        row = slice(matrix.by_item.indptr[item], matrix.by_item.indptr[item + 1])
        folded = fold_in(side, users[matrix.by_item.indices[row]], matrix.by_item.data[row])
        assert np.linalg.norm(folded - exact[item]) <= 1e-5 * np.linalg.norm(exact[item])


def test_the_manifest_carries_the_users_gramian(made: Made) -> None:
    """To nine digits, and what folding in gives with it is the half-step of the fitted model."""
    model: Model = made.model
    triangle = np.triu_indices(model.items.shape[1])
    assert made.manifest.user_gramian is not None
    assert np.allclose(made.manifest.user_gramian, model.gramian_users[triangle], rtol=1e-8)
    wide = dataclasses.replace(model, items=np.zeros((1, 321), np.float32))
    assert user_gramian(wide) is None
