"""The evaluation: a slow twin agrees, what was learnt beats popularity, nothing leaks from the future."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from bootstrap import evaluate as evaluating
from bootstrap.columns import POSITIVE, Columns, columns_of
from bootstrap.evaluate import Trained, evaluate, split
from bootstrap.fit import score
from bootstrap.fold import fold
from bootstrap.matrix import build
from bootstrap.users import solve_users, space_of
from ops.data import synthetic
from streamer.factors.history import fold_event
from streamer.factors.solve import solve_cholesky
from streamer.factors.weigh import confidence_array, strength_at
from tests.bootstrap.small import KEY, NOW_MS, changed, quiet, recipe

if TYPE_CHECKING:
    import numpy.typing as npt

    from schemas.records import Policy
    from tests.bootstrap.small import Made, Reading

TINY = synthetic.Shape(users=25, items=40, events=500, factors=3, days=20)


def trained_on(columns: Columns, before: npt.NDArray[np.intp], policy: Policy) -> Trained:
    kept = columns.take(np.sort(before))
    users = fold(kept, policy)
    matrix = build(kept, users, policy, int(kept.at.max()))
    items = np.random.default_rng(0).standard_normal((len(matrix.item_ids), 4)).astype(np.float32)
    space = space_of(matrix, items, policy)
    return Trained(users, matrix, space, solve_users(matrix, space, policy, 1e-6))


def slow_metrics(
    columns: Columns,
    before: npt.NDArray[np.intp],
    after: npt.NDArray[np.intp],
    trained: Trained,
    policy: Policy,
    k: int,
) -> dict[str, float]:
    """One event at a time, one user at a time, everything recounted."""
    number = {item_id: at for at, item_id in enumerate(trained.matrix.item_ids)}
    seen: dict[int, set[int]] = {}
    counts = np.zeros(len(number))
    histories: dict[int, tuple[list[int], list[float], list[int]]] = {}
    for event in np.sort(before[columns.kind[before] == POSITIVE]).tolist():
        at = number.get(columns.item_ids[columns.item[event]], -1)
        history = histories.setdefault(int(columns.user[event]), ([], [], []))
        _fold(history, columns, event, policy)
        if at >= 0:
            seen.setdefault(int(columns.user[event]), set()).add(at)
            counts[at] += 1
    found: dict[str, list[float]] = {"": [], "frozen_": [], "popularity_": []}
    known, owners, lists = set(columns.user[before[columns.kind[before] == POSITIVE]].tolist()), [], []
    events_of = counts.copy()
    for event in after[columns.kind[after] == POSITIVE].tolist():
        user, at = int(columns.user[event]), number.get(columns.item_ids[columns.item[event]], -1)
        history, had = histories.setdefault(user, ([], [], [])), seen.setdefault(user, set())
        if at >= 0 and at not in had:
            vector = _vector(history, trained, policy)
            frozen = trained.solved.vectors[user] if user < len(trained.solved.vectors) else trained.solved.average
            owners.append(user)
            ranked = np.argsort(
                -np.where(np.isin(np.arange(len(counts)), list(had)), -np.inf, trained.space.vectors @ vector)
            )
            lists.append([item for item in ranked.tolist() if item not in had][:k])
            for name, scores in {
                "": trained.space.vectors @ vector,
                "frozen_": trained.space.vectors @ frozen,
                "popularity_": counts,
            }.items():
                others = np.array([score for item, score in enumerate(scores) if item not in had and item != at])
                found[name].append(float((others > scores[at]).sum() + (others == scores[at]).sum() / 2))
            had.add(at)
        if at >= 0:
            counts[at] += 1
        _fold(history, columns, event, policy)
    metrics = {"scored_events": float(len(found[""]))}
    for name, positions in found.items():
        metrics[f"{name}recall"] = float(np.mean([at < k for at in positions]))
        metrics[f"{name}ndcg"] = float(np.mean([1 / np.log2(at + 2) if at < k else 0 for at in positions]))
        metrics[f"{name}map"] = float(np.mean([1 / (at + 1) if at < k else 0 for at in positions]))
        hit = {user for user, at in zip(owners, positions, strict=True) if at < k}
        metrics[f"{name}hit_rate"] = len(hit) / len(set(owners))
        for whose, wanted in (("known", True), ("new", False)):
            mine = [at < k for user, at in zip(owners, positions, strict=True) if (user in known) == wanted]
            metrics[f"{name}{whose}_users_recall"] = float(np.mean(mine)) if mine else 0.0
    shown = [item for one in lists for item in one]
    share = np.maximum(events_of, 1) / events_of.sum()
    metrics["coverage"] = len(set(shown)) / len(counts)
    metrics["novelty"] = float(np.mean([-np.log2(share[item]) for item in shown]))
    top = np.argsort(-events_of, kind="stable")[: max(len(counts) // 100, 1)]
    metrics["top_share"] = float(np.mean(np.isin(shown, top)))
    return metrics


def _fold(history: tuple[list[int], list[float], list[int]], columns: Columns, event: int, policy: Policy) -> None:
    fold_event(
        *history,
        int(columns.hashes[columns.item[event]]),
        float(columns.weight[event]),
        int(columns.at[event]),
        half_life_ms=policy.half_life_ms,
        capacity=policy.history_capacity,
    )


def _vector(
    history: tuple[list[int], list[float], list[int]], trained: Trained, policy: Policy
) -> npt.NDArray[np.float32]:
    if not history[0]:
        return trained.solved.average
    time = np.array(history[2])
    faded = strength_at(np.array(history[1], np.float32), time, np.full(len(time), time.max()), policy.half_life_ms)
    index = trained.space.lookup(np.array(history[0], np.uint64))
    if (index < 0).all():
        return trained.solved.average
    return solve_cholesky(trained.space, index, confidence_array(faded, policy), policy.rhs)


@pytest.mark.parametrize("scores", [1 << 22, 50])
def test_the_slow_twin_agrees(reading: Reading, monkeypatch: pytest.MonkeyPatch, scores: int) -> None:
    """Test, then learn, event by event: new users, unknown items and evictions included, in blocks of any size."""
    monkeypatch.setattr(evaluating, "_SCORES", scores)
    policy = changed(history_capacity=10)
    log = reading(*synthetic.load(2, TINY).rebase(NOW_MS).events, policy=policy)
    columns, _ = columns_of(log, policy, KEY)
    before, after = split(columns, 0.6)
    trained = trained_on(columns, before, policy)
    found = evaluate(columns, before, after, trained, policy, k=5, tolerance=1e-6)
    expected = slow_metrics(columns, before, after, trained, policy, 5)
    assert found["scored_events"] > 50
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_planted_taste_is_learnt(made: Made) -> None:
    """On made-up data with real taste in it: folding beats the frozen model, and both beat popularity."""
    metrics = made.manifest.metrics
    assert metrics["recall"] > 1.3 * metrics["popularity_recall"]
    assert metrics["recall"] > metrics["frozen_recall"]
    assert metrics["ndcg"] > metrics["popularity_ndcg"]


def test_split_is_in_time_order(reading: Reading) -> None:
    """The test events are the newest ones, wherever they stand in the log."""
    log = reading(*reversed(synthetic.load(2, TINY).rebase(NOW_MS).events))
    columns, _ = columns_of(log, changed(), KEY)
    before, after = split(columns, 0.75)
    assert columns.at[before].max() <= columns.at[after].min()
    assert len(before) == round(0.75 * len(columns))


def test_too_few_events_give_no_metrics(reading: Reading) -> None:
    """One event cannot be split."""
    log = reading(synthetic.load(2, TINY).rebase(NOW_MS).events[0])
    columns, _ = columns_of(log, changed(), KEY)
    assert score(columns, recipe(changed()), quiet) == {}


@pytest.mark.slow
def test_made_up_data_pass_the_gate(reading: Reading) -> None:
    """Where MovieLens cannot be had, the demo trains on the first half of these, and must get through its gates."""
    before, _ = synthetic.load(0).split(0.5)
    log = reading(*before)
    columns, _ = columns_of(log, changed(), KEY)
    metrics = score(columns, recipe(changed(), dimension=32), quiet)
    assert metrics["recall"] > 2 * metrics["popularity_recall"]
    assert metrics["recall"] > metrics["frozen_recall"]
