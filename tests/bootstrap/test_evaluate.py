"""The evaluation: a slow twin agrees, what was learnt beats popularity, nothing leaks from the future."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bootstrap import evaluate as evaluating
from bootstrap.columns import POSITIVE, RETURNED, SUPPRESSED, Columns, columns_of
from bootstrap.evaluate import Foretold, Trained, evaluate, foretell, split, summary
from bootstrap.fit import score, train
from bootstrap.fold import fold
from bootstrap.matrix import build
from bootstrap.serve import solver_of
from bootstrap.users import solve_users, space_of, vectors_of
from ops.data import synthetic
from streamer.factors.history import fold_event
from streamer.factors.serving import Past, serve
from streamer.factors.solve import solve_cholesky
from streamer.factors.weigh import confidence_array, confidence_now, strength_at
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


def had_by_then(columns: Columns, then: npt.NDArray[np.intp], user: int, trained: Trained, policy: Policy) -> Any:
    """The vector that the user has after these events, of a log that ends there; by no state of a replay."""
    users = fold(columns.take(then), policy)
    mine = slice(int(users.history_start[user]), int(users.history_start[user + 1]))
    used = np.ones((1, max(1, mine.stop - mine.start)), bool)
    items, strength = np.zeros(used.shape, np.uint64), np.zeros(used.shape, np.float32)
    time, used[:] = np.zeros(used.shape, np.int64), mine.stop > mine.start
    if used.all():
        items[0], strength[0], time[0] = users.item[mine], users.strength[mine], users.time[mine]
    index = np.where(used, trained.space.lookup(items), -1).astype(np.int32)
    confidence = confidence_now(strength, time, used, policy)
    vectors = vectors_of(trained.space, index, confidence, policy, 1e-9, trained.solved.average)
    if trained.priors is None:
        return vectors[0]
    past, segment = Past(items, time, used, index, confidence), np.zeros(1, np.uint64)
    if users.segment is not None:
        segment = users.segment[user : user + 1]
    events, solve = users.events[user : user + 1], solver_of(trained.space, policy, 1e-9)
    return serve(past, vectors, events, segment, policy, trained.priors, solve).vectors[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"recency_entries": 2.0, "rhs": "c-1"},
        {"blend_events": 30},
        {"blend_events": 30, "segment_key": "device"},
        {"session_weight": 0.5, "session_gap_ms": 86_400_000, "session_entries": 3},
    ],
    ids=["plain", "recency", "blend", "segments", "session"],
)
def test_each_event_is_foretold_by_what_the_stream_has_then(reading: Reading, options: dict[str, Any]) -> None:
    """Purchases that are returned, hides, users who change their segment: as if the log ended before each event."""
    policy = changed(history_capacity=64, **options)
    events = []
    for number, one in enumerate(synthetic.load(2, TINY).rebase(NOW_MS).events):
        context = {"device": ("phone", "desk")[(number // 60 + len(one["user_id"])) % 2]}
        events.append(one | {"context": context})
        if number % 3 == 0:
            kind = "hide" if number % 9 == 0 else "return"
            events.append(one | {"event_type": kind, "request_id": f"back{number}", "timestamp": one["timestamp"] + 1})
    columns, _ = columns_of(reading(*events, policy=policy), policy, KEY)
    before, after = split(columns, 0.7)
    plan = replace(recipe(policy), segment_users=3)
    trained = train(columns.take(np.sort(before)), plan, quiet, "")
    found = foretell(columns, before, after, trained, policy, k=5, tolerance=1e-9)
    order = np.concatenate([before, after])
    assert np.count_nonzero(found.scored) > 40
    known = {item_id: at for at, item_id in enumerate(trained.matrix.item_ids)}
    for test in np.flatnonzero(found.scored)[::2].tolist():
        then = np.sort(order[: int(np.flatnonzero(order == found.event[test])[0])])
        user, item = int(found.user[test]), known[columns.item_ids[found.item[test]]]
        vector = had_by_then(columns, then, user, trained, policy)
        mine = then[(columns.user[then] == user) & (columns.kind[then] == POSITIVE)]
        had = [known.get(columns.item_ids[one], -1) for one in columns.item[mine].tolist()]
        scores = trained.space.vectors @ vector
        others = np.delete(scores, [at for at in {*had, item} if at >= 0])
        assert abs(found.folded[test] - np.count_nonzero(others > scores[item])) <= 0.5
    assert set(columns.kind[after].tolist()) == {POSITIVE, SUPPRESSED, RETURNED}


def test_new_items_count_apart() -> None:
    """A projected item is ranked but no scored event; a user's first event with a new item is one of new_items."""
    trained = np.array([True, False, False, True])
    ones, none = np.ones(4, bool), np.zeros(4)
    found = Foretold(
        event=np.arange(4),
        user=np.arange(4),
        item=np.array([0, 1, 1, 0]),
        at=np.arange(4),
        folded=np.array([0.0, 3.0, 0.0, -1.0]),
        frozen=none,
        popular=none,
        lists=np.zeros((4, 1), np.int32),
        known_user=ones,
        known_item=ones,
        trained_item=trained,
        first=np.array([True, True, False, True]),
        events=np.array([2, 0]),
    )
    assert found.scored.tolist() == [True, False, False, False]
    metrics = summary(found, 2)
    assert (metrics["scored_events"], metrics["recall"]) == (1, 1.0)
    assert (metrics["new_items_events"], metrics["new_items_recall"]) == (1, 0.0)


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
