"""Ratings: the streamed row is the batch half-step's, replacing is free of order, and item steps go downhill."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.explicit import Ratings, Ridges, fit_als
from schemas.records import Policy
from streamer.factors.explicit import REFUSED, apply_ratings, replace_ratings, solve_ratings, solve_users, weights_now
from streamer.factors.history import fold_batch

DAY_MS = 86_400_000


def policy(**changes: object) -> Policy:
    return Policy(feedback="explicit", **{"ridge": 2.0, "ridge_bias": 1.5, "sgd_rate": 0.05, **changes})  # type: ignore[arg-type]


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), dimension=st.integers(1, 24), rated=st.integers(1, 60))
def test_a_streamed_user_is_the_batch_half_step(seed: int, dimension: int, rated: int) -> None:
    """Vector and bias, to 1e-5: ALS whose last half-step is the users', and the stream's solve of the same history."""
    draw = np.random.default_rng(seed)
    users, items = 4, 70
    user = np.repeat(np.arange(users), rated)
    item = np.concatenate([draw.choice(items, rated, replace=False) for _ in range(users)])
    rating, weight = draw.uniform(0.5, 5.0, len(user)), draw.uniform(0.1, 1.0, len(user))
    ratings = Ratings(user, item, rating, weight, np.zeros(len(user), np.int64), users, items)
    fitted = fit_als(ratings, dimension, 3, Ridges(2.0, 2.0, 1.5, 1.5), seed)
    index = item.reshape(users, rated).astype(np.int32)
    rows, empty = solve_users(
        fitted.items.astype(np.float32),
        index,
        rating.reshape(users, rated),
        weight.reshape(users, rated),
        fitted.mean,
        policy(),
    )
    assert not empty.any()
    assert np.abs(rows - fitted.users).max() <= 1e-5 * max(1.0, float(np.linalg.norm(fitted.users, axis=1).max()))


@given(seed=st.integers(0, 2**32 - 1), rated=st.integers(0, 12))
def test_the_solve_is_the_least_squares_of_its_formula(seed: int, rated: int) -> None:
    """By an independent way: stacked rows, no normal equations."""
    draw = np.random.default_rng(seed)
    items = draw.standard_normal((rated, 5)).astype(np.float32)
    rating, weight = draw.uniform(1, 5, rated), draw.uniform(0.1, 1, rated)
    rows = np.hstack([items[:, :-1], np.ones((rated, 1))]) * np.sqrt(weight)[:, None]
    ridge = np.diag(np.sqrt([2.0, 2.0, 2.0, 2.0, 1.5]))
    right = np.concatenate([(rating - 3.0 - items[:, -1]) * np.sqrt(weight), np.zeros(5)])
    wanted = np.linalg.lstsq(np.vstack([rows, ridge]), right)[0]
    np.testing.assert_allclose(solve_ratings(items, rating, weight, 3.0, policy()), wanted, atol=1e-5)


@given(seed=st.integers(0, 2**32 - 1))
def test_the_newest_rating_stays_whatever_the_order(seed: int) -> None:
    """Of equal times the higher one; nothing is added up."""
    draw = np.random.default_rng(seed)
    rating, at = draw.integers(1, 6, 6).astype(float), draw.integers(1, 4, 6)
    kept = set()
    for order in (draw.permutation(6) for _ in range(4)):
        items, strength = np.zeros((1, 8), np.uint64), np.zeros((1, 8), np.float32)
        time, count = np.zeros((1, 8), np.int64), np.zeros(1, np.int64)
        for event in order:
            one = np.array([7], np.uint64), rating[[event]], at[[event]]
            fold_batch(items, strength, time, count, *one, 1000, merge=replace_ratings)
        kept.add((float(strength[0, 0]), int(time[0, 0]), int(count[0])))
    newest = at.max()
    assert kept == {(rating[at == newest].max(), newest, 1)}


def test_weights_fade_only_where_the_policy_says() -> None:
    """All 1 by default; else halved with every half-life from the user's newest rating."""
    time, used = np.array([[0, 10 * DAY_MS, 0]]), np.array([[True, True, False]])
    assert (weights_now(time, used, policy()) == 1.0).all()
    faded = weights_now(time, used, policy(rating_half_life_ms=10 * DAY_MS))
    assert faded[0, :2].tolist() == [0.5, 1.0]
    assert weights_now(time, used, policy(recency_entries=1.0))[0, :2].tolist() == [0.5, 1.0]


@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(0, 12))
def test_item_steps_do_not_depend_on_batches(seed: int, cut: int) -> None:
    """The same bytes however the signals are cut, and as one by one."""
    draw = np.random.default_rng(seed)
    items = draw.standard_normal((3, 4)).astype(np.float32)
    users, rating = draw.standard_normal((12, 4)).astype(np.float32), draw.uniform(1, 5, 12)
    of = draw.integers(0, 3, 12).astype(np.intp)
    whole, norms = apply_ratings(items, of, users, rating, 3.0, policy())
    first, _ = apply_ratings(items, of[:cut], users[:cut], rating[:cut], 3.0, policy())
    parts, _ = apply_ratings(first, of[cut:], users[cut:], rating[cut:], 3.0, policy())
    assert whole.tobytes() == parts.tobytes()
    assert (norms <= policy().sgd_clip).all()
    y = items[of[0]].astype(np.float64)
    x = users[0].astype(np.float64)
    error = rating[0] - 3.0 - y[-1] - x[-1] - x[:-1] @ y[:-1]
    step = 0.05 * (error * np.append(x[:-1], 1.0) - policy().sgd_reg * y)
    step *= min(1.0, policy().sgd_clip / float(np.linalg.norm(step)))
    alone, _ = apply_ratings(items, of[:1], users[:1], rating[:1], 3.0, policy())
    np.testing.assert_allclose(alone[of[0]], y + step, atol=1e-6)


def test_one_absurd_rating_moves_an_item_by_the_clip() -> None:
    """In the direction that it says, and no further; so its length is what is reported."""
    items, users = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    for rating, sign in ((1e12, 1.0), (-1e12, -1.0)):
        moved, norms = apply_ratings(items, np.zeros(1, np.intp), users, np.array([rating]), 3.0, policy(sgd_clip=0.5))
        np.testing.assert_allclose(moved, [[sign * 0.5 / np.sqrt(3)] * 3], rtol=1e-6)
        assert norms.tolist() == [0.5]


def test_a_step_that_is_not_finite_is_refused() -> None:
    """The item stays as it was."""
    items = np.ones((1, 3), np.float32)
    users = np.full((1, 3), np.inf, np.float32)
    moved, norms = apply_ratings(items, np.zeros(1, np.intp), users, np.array([3.0]), 3.0, policy())
    assert moved.tolist() == items.tolist()
    assert norms.tolist() == [REFUSED]
