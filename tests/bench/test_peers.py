"""The peers' formulas against values worked out by hand, and the replay that all contenders share."""

from __future__ import annotations

import numpy as np
import pytest

from bootstrap.evaluate import Trained, evaluate, split
from bootstrap.fold import fold
from bootstrap.matrix import build
from bootstrap.users import solve_users, space_of
from ops.data import synthetic
from tests.bench.bench_peers import Row, spread, table
from tests.bench.peers import eals
from tests.bench.peers.batch import columns_of
from tests.bench.peers.contenders import FOUND, Contender, contenders
from tests.bench.peers.eals import EALS, sweep
from tests.bench.peers.events import Events, halves, numbered
from tests.bench.peers.isgd import stepped
from tests.bench.peers.oryx import updated
from tests.bench.peers.ours import Streamed
from tests.bench.peers.popularity import Popularity
from tests.bench.peers.replay import foretell, position, rate_together

SMALL = synthetic.Shape(users=25, items=40, events=400, factors=3, days=20)


def test_oryx_moves_the_score_by_the_leverage_of_the_gap() -> None:
    """With q = 0.2 and r = 3, t = 0.2 + 3/4 * 0.8 = 0.8; y'G^-1 y = 1/4, so the score moves by 0.15."""
    y, x = np.array([1.0, 0.0]), np.array([0.2, 0.5])
    new = updated(np.diag([4.0, 1.0]), x, y, 3.0)
    assert new is not None
    np.testing.assert_allclose(new, [0.35, 0.5])


@pytest.mark.parametrize(
    ("strength", "x", "expected"),
    [
        (1.0, None, [0.375, 0.0]),  # t = 1/2 + 1/2 * 1/2 = 3/4, from 0, over the leverage 1/2
        (-1.0, None, [0.125, 0.0]),  # t = 1/2 - 1/2 * 1/2 = 1/4: a dislike, and above zero
        (-3.0, [0.4, 0.0], [0.25, 0.0]),  # t = 0.4 - 3/4 * 0.4 = 0.1
        (1.0, [1.0, 0.0], None),
        (-1.0, [-0.1, 0.0], None),
    ],
)
def test_oryx_targets(strength: float, x: list[float] | None, expected: list[float] | None) -> None:
    new = updated(np.diag([2.0, 2.0]), None if x is None else np.array(x), np.array([1.0, 0.0]), strength)
    if expected is None:
        assert new is None
    else:
        assert new is not None
        np.testing.assert_allclose(new, expected)


def test_isgd_steps_both_from_before() -> None:
    """x.y = 0.5: e = 0.5; x = 1 + 0.1 (0.25 - 0.2), y = 0.5 + 0.1 (0.5 - 0.1)."""
    x, y = stepped(np.array([1.0]), np.array([0.5]), rate=0.1, reg=0.2)
    np.testing.assert_allclose([x[0], y[0]], [1.005, 0.54])


def test_an_eals_sweep_by_hand() -> None:
    """One pair, y = (1, 2), w = 1, c = 0.5, S = [[2, 1], [1, 3]], λ = 1, from x = (1, 1).

    First r^1 = 2:   (1 - 0.5 * 2) * 1 - 1 * 1 = -1 over 0.5 + 2 + 1 = 3.5.
    Then r^2 = -2/7: (1 + 1/7) * 2 + 2/7 = 18/7 over 2 + 3 + 1 = 6.
    """
    x = np.array([1.0, 1.0])
    gram = np.array([[2.0, 1.0], [1.0, 3.0]])
    sweep(x, np.array([[1.0, 2.0]]), np.ones(1), np.array([0.5]), gram, 1.0, 1.0)
    np.testing.assert_allclose(x, [-1 / 3.5, 18 / 42])


def test_eals_caches_follow_its_vectors_and_its_sweeps_end_at_the_exact_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eals, "compiled", lambda: sweep)  # compiling takes longer than all the rest
    parts = halves(numbered(synthetic.load(1, SMALL)))
    peer = EALS(0, dimension=3, ridge=0.5, c0=8.0, w_new=2.0, passes=2)
    peer.fit(parts)
    for user, item in zip(parts.after.user.tolist(), parts.after.item.tolist(), strict=True):
        peer.learn(user, item)
    np.testing.assert_allclose(peer.gram_items, (peer.items * peer.c[:, None]).T @ peer.items, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(peer.gram_users, peer.users.T @ peer.users, rtol=1e-9, atol=1e-12)
    user = int(parts.after.user[-1])
    for _ in range(200):
        peer.sweep_user(user)
    had = [*parts.histories()[user], *parts.after.item[parts.after.user == user].tolist()]
    weight = np.array([1.0] * len(parts.histories()[user]) + [2.0] * int((parts.after.user == user).sum()))
    y = peer.items[had]
    system = peer.gram_items + 0.5 * np.eye(3) + (y * (weight - peer.c[had])[:, None]).T @ y
    np.testing.assert_allclose(peer.users[user], np.linalg.solve(system, weight @ y), rtol=1e-6)


def test_positions() -> None:
    """What the user had does not count, equal scores share their place, unknown items are not ranked."""
    assert position(np.array([5.0, 4.0, 3.0, 9.0]), 2, had=[0], known_items=3) == 1
    assert position(np.array([1.0, 1.0, 1.0]), 1, had=[], known_items=3) == 1


def test_popularity_is_counted_up_to_each_event() -> None:
    """Before: item 0 twice, item 1 once. User 1 then likes item 1 (second); user 2 item 1 (shares the first place)."""
    before = Events(np.array([0, 1, 0]), np.array([0, 0, 1]), np.arange(3))
    after = Events(np.array([1, 2, 2]), np.array([1, 1, 7]), np.arange(3, 6))
    parts = halves(before.joined(after))
    np.testing.assert_array_equal(foretell(Popularity(), parts).rank, [0, 0.5, -1])


@pytest.mark.slow
def test_ours_is_what_the_offline_evaluation_says() -> None:
    """The steps one event at a time, and `bootstrap evaluate` on the same events."""
    events = numbered(synthetic.load(2, SMALL))
    parts = halves(events)
    peer = Streamed(0, policy={"rhs": "c-1", "recency_entries": 3.0}, dimension=4, iterations=3)
    peer.fit(parts)
    model = peer.model
    assert model is not None
    columns = columns_of(events, peer.policy.weights["like"])
    before, after = split(columns, 0.5)
    kept = columns.take(np.sort(before))
    users = fold(kept, peer.policy)
    matrix = build(kept, users, peer.policy, int(kept.at.max()))
    space = space_of(matrix, model.items, peer.policy)
    trained = Trained(users, matrix, space, solve_users(matrix, space, peer.policy, 1e-6))
    metrics = evaluate(columns, before, after, trained, peer.policy, k=10, tolerance=1e-6)
    found = foretell(peer, parts).quality()
    assert found.events == metrics["scored_events"]
    assert found.recall == pytest.approx(metrics["recall"], abs=0.01)
    assert found.ndcg == pytest.approx(metrics["ndcg"], abs=0.005)


def test_items_move_by_the_workers_own_step_and_users_are_solved_against_them() -> None:
    parts = halves(numbered(synthetic.load(2, SMALL)))
    peer = Streamed(0, policy={"sgd_rate": 0.01}, dimension=4, iterations=2)
    peer.fit(parts)
    assert foretell(peer, parts).quality().events > 100
    assert peer.model is not None
    moved = np.abs(peer.items.space.vectors - peer.model.items).max(axis=1) > 0
    known = {item for item in parts.after.item.tolist() if item < parts.known_items}
    names = [int(name.removeprefix("item-")) for name in peer.items.space.ids]
    np.testing.assert_array_equal(moved, [name in known for name in names])


def test_events_together_end_where_events_alone_end() -> None:
    parts = halves(numbered(synthetic.load(2, SMALL)))
    ends = []
    for size in (1, 50):
        peer = Streamed(0, policy={}, dimension=4, iterations=2)
        peer.fit(parts)
        assert rate_together(peer, parts, size) > 0
        ends.append([peer.scores(user) for user in range(parts.users)])
    for alone, together in zip(*ends, strict=True):
        assert alone is not None
        assert together is not None
        np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)


def test_a_row_that_cannot_be_had_says_why() -> None:
    row = Row(Contender("x", lambda seed: Popularity(), {}, ""), missing="river is not installed")
    lines = table([row])
    assert "river is not installed" in lines[-1]
    assert len({line.count("|") for line in lines}) == 1


def test_the_spread_is_shown_where_there_is_one() -> None:
    assert spread([0.1, 0.1]) == "0.100"
    assert spread([0.1, 0.2]) == "0.150 (0.100 to 0.200)"


def test_every_contender_has_parameters_to_choose_from() -> None:
    everyone = contenders(FOUND)
    names = [one.name for one in everyone]
    assert len(set(names)) == len(names)
    assert all(one.like is None or one.like in names for one in everyone)
    assert all(one.grid() for one in everyone)
