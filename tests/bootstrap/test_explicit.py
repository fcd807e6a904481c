"""Explicit training: half-steps are exact, the loss falls, the compiled loops and their twins agree, seeds hold."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap import explicit
from bootstrap.als import Iteration
from bootstrap.descent import Descent, fit_sgd
from bootstrap.explicit import Ratings, Ridges, biases_only, fit_als, loss

RIDGES = Ridges(2.0, 3.0, 1.0, 4.0)


def ratings_of(seed: int, users: int = 30, items: int = 20, share: float = 0.4) -> Ratings:
    """About 3 by planted tastes and biases; some users and items without any rating."""
    draw = np.random.default_rng(seed)
    x, y = draw.standard_normal((users, 2)), draw.standard_normal((items, 2))
    whole = 3 + draw.standard_normal((users, 1)) * 0.5 + draw.standard_normal(items) * 0.5 + x @ y.T * 0.5
    rated = draw.random(whole.shape) < share
    rated[0], rated[:, 0] = False, False
    user, item = np.nonzero(rated)
    weight = draw.uniform(0.2, 1.0, len(user))
    return Ratings(user, item, whole[rated], weight, draw.integers(0, 1000, len(user)), users, items)


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explicit, "kernel", lambda: None)


@pytest.mark.parametrize("reg_seen", [0.0, 0.05])
@pytest.mark.parametrize("bins", [1, 3])
def test_compiled_descent_is_its_twin(reg_seen: float, bins: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps in the same order, to rounding."""
    ratings, descent = ratings_of(1), Descent(0.02, reg_seen=reg_seen, bins=bins)
    compiled = fit_sgd(ratings, 4, 5, descent, 7)
    without_compiler(monkeypatch)
    plain = fit_sgd(ratings, 4, 5, descent, 7)
    np.testing.assert_allclose(compiled.users, plain.users, atol=1e-12)
    np.testing.assert_allclose(compiled.items, plain.items, atol=1e-12)


def test_compiled_half_steps_are_their_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    """To rounding, rows without ratings included."""
    ratings = ratings_of(2)
    compiled = fit_als(ratings, 4, 5, RIDGES, 7)
    without_compiler(monkeypatch)
    plain = fit_als(ratings, 4, 5, RIDGES, 7)
    np.testing.assert_allclose(compiled.users, plain.users, atol=1e-11)
    np.testing.assert_allclose(compiled.items, plain.items, atol=1e-11)
    assert not plain.users[0].any()


@pytest.mark.parametrize("compiled", [True, False])
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), dimension=st.integers(1, 6))
def test_no_step_away_from_a_solved_row_lowers_the_loss(compiled: bool, seed: int, dimension: int) -> None:
    """The last half-step is the users': there the loss has its minimum in every user's row, bias included."""
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            without_compiler(patch)
        ratings = ratings_of(seed)
        fitted = fit_als(ratings, dimension, 2, RIDGES, seed)
        lowest, draw = loss(ratings, fitted, RIDGES), np.random.default_rng(seed)
        for size in (1e-1, 1e-3):
            fitted.users[:] += (step := draw.standard_normal(fitted.users.shape) * size)
            assert loss(ratings, fitted, RIDGES) > lowest
            fitted.users[:] -= step


@pytest.mark.parametrize(("which", "column"), [(0, "users"), (1, "items"), (2, "user_bias"), (3, "item_bias")])
def test_each_half_step_has_its_own_two_ridges(which: int, column: str) -> None:
    """A ridge beyond all measure leaves nothing of what it is of, and of nothing else."""
    fitted = fit_als(ratings_of(2), 3, 2, Ridges(*(1e12 if one == which else 0.1 for one in range(4))), 7)
    sizes = {
        "users": fitted.users[:, :-1],
        "items": fitted.items[:, :-1],
        "user_bias": fitted.users[:, -1],
        "item_bias": fitted.items[:, -1],
    }
    assert np.abs(sizes.pop(column)).max() < 1e-6
    # x and y vanish together: what is left of their product has nothing to be solved from.
    gone = {"users": "items", "items": "users"}.get(column, "")
    assert all(np.abs(size).max() > 1e-2 for name, size in sizes.items() if name != gone)


def test_the_rate_of_descent_shrinks_with_every_epoch() -> None:
    """With next to nothing left of it after the first epoch, the others move nothing."""
    fitted = [fit_sgd(ratings_of(1), 3, epochs, Descent(0.05, decay=1e-12), 7).items for epochs in (1, 4)]
    np.testing.assert_allclose(fitted[0], fitted[1], atol=1e-9)


def test_what_leaves_counts_what_was_rated_at_all() -> None:
    """SVD++: an epoch that moves nothing measures the loss of the very rows that leave, x = p + |N|^(-1/2) sum z."""
    ratings, told = ratings_of(1), list[Iteration]()
    fitted = fit_sgd(ratings, 3, 2, Descent(0.1, decay=1e-12, reg_seen=0.01), 7, told.append)
    error = ratings.rating - fitted.predict(ratings.user, ratings.item)
    assert told[-1].loss == pytest.approx(float(np.sum(ratings.weight * error**2)), rel=1e-9)


def test_the_loss_of_als_never_rises_and_its_patience_ends() -> None:
    """Each half-step is exact."""
    told: list[Iteration] = []
    fit_als(ratings_of(3), 3, 12, RIDGES, 0, told.append)
    assert [one.number for one in told] == list(range(1, 13))
    assert all(after.loss <= before.loss * (1 + 1e-12) for before, after in pairwise(told))
    short: list[Iteration] = []
    fit_als(ratings_of(3), 3, 12, RIDGES, 0, short.append, patience=0.05)
    assert len(short) < 12


@pytest.mark.parametrize("threads", [1, 2])
def test_als_has_the_same_bytes_for_a_seed(threads: int) -> None:
    """Whatever the number of threads."""
    first, again = (fit_als(ratings_of(4), 3, 3, RIDGES, 5, threads=number) for number in (1, threads))
    assert first.items.tobytes() == again.items.tobytes()
    assert first.items.tobytes() != fit_als(ratings_of(4), 3, 3, RIDGES, 6).items.tobytes()


def test_sgd_has_the_same_bytes_for_a_seed_and_learns() -> None:
    """And its error falls, below that of biases alone."""
    ratings, told = ratings_of(4, share=0.8), list[Iteration]()
    descent = Descent(0.03, reg_users=0.01, reg_items=0.01, reg_seen=0.01)
    first = fit_sgd(ratings, 3, 60, descent, 5, told.append)
    assert first.items.tobytes() == fit_sgd(ratings, 3, 60, descent, 5).items.tobytes()
    assert first.items.tobytes() != fit_sgd(ratings, 3, 60, descent, 6).items.tobytes()
    assert told[-1].loss < 0.2 * told[0].loss
    assert loss(ratings, first, RIDGES) < loss(ratings, biases_only(ratings, RIDGES), RIDGES)


def test_an_item_that_grows_on_people_has_the_bias_of_its_last_bin() -> None:
    """Item 0 is rated 2 in the first half of the time and 4 in the second; what leaves is what holds now."""
    draw = np.random.default_rng(0)
    user, time = np.repeat(np.arange(200), 2), np.repeat(np.arange(200), 2)
    item = np.tile([0, 1], 200)
    rating = np.where(item == 0, np.where(time < 100, 2.0, 4.0), 3.0) + draw.standard_normal(400) * 0.01
    ratings = Ratings(user, item, rating, np.ones(400), time, 200, 2)
    kept: dict[int, Any] = {bins: fit_sgd(ratings, 1, 80, Descent(0.05, bins=bins), 0) for bins in (1, 2)}
    told = {bins: fitted.mean + fitted.items[0, -1] for bins, fitted in kept.items()}
    assert abs(told[1] - 3.0) < 0.3
    assert told[2] > 3.6


@pytest.mark.parametrize("fit", ["als", "sgd"])
def test_a_warm_start_begins_where_it_is_told(fit: str) -> None:
    """A row that is not finite begins at random; a start of another shape is refused."""
    ratings = ratings_of(6)
    descent = Descent(1e-9)
    start = np.ones((20, 4), np.float32)
    start[3] = np.nan
    if fit == "als":
        # One round moves everything: what is seen is that the start counts.
        items = fit_als(ratings, 3, 1, RIDGES, 0, start=start).items
        assert not np.array_equal(items, fit_als(ratings, 3, 1, RIDGES, 0).items)
    else:
        items = fit_sgd(ratings, 3, 1, descent, 0, start=start).items
        np.testing.assert_allclose(items[[0, 1, 2, 4]], 1.0, atol=1e-6)
    assert np.isfinite(items[3]).all()
    trains = {
        "als": lambda: fit_als(ratings, 2, 1, RIDGES, 0, start=start),
        "sgd": lambda: fit_sgd(ratings, 2, 1, descent, 0, start=start),
    }
    with pytest.raises(ValueError, match="does not fit"):
        trains[fit]()


def test_what_cannot_be_is_refused() -> None:
    """Ridges and steps that make no sense."""
    with pytest.raises(ValueError, match="ridge"):
        Ridges(0.0, 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="rate"):
        Descent(rate=0.0)
