"""Explicit ratings: Funk's SVD by stochastic gradient descent, and ALS, both with biases.

    r̂ = μ + b_u + b_i + x.y        a user's row is [x, b_u], an item's [y, b_i]        μ the mean of all ratings

    L = sum w (r - r̂)^2 + ridge_u |X|^2 + ridge_i |Y|^2 + ridge_bu |b_u|^2 + ridge_bi |b_i|^2

"als" solves each row of one side exactly against the other (`streamer.factors.explicit.regress`, which the stream
solves users by), so L never rises. "sgd" takes the ratings one by one in a seeded order, with the share of each ridge
that falls to one rating as `reg`, and a rate that shrinks with every epoch::

    e = r - r̂        [x, b_u] += rate w (e [y, 1]) - rate reg_u x, reg_b b_u        [y, b_i] likewise, by the old x

With `reg_seen` > 0 what a user has rated at all counts too (SVD++, Koren 2008, doi 10.1145/1401890.1401944)::

    x = p + |N|^(-1/2) sum z_j   over the user's N rated items; p and every z are learned, x is what leaves this file

With `bins` > 1 an item's bias has a part of its own for each equal span of the training's time (timeSVD's b_i(t), Koren
2009, doi 10.1145/1557019.1557072), and the last of them is part of the bias that leaves this file: the one that holds
now. `bootstrap.explicit_kernel` does both compiled, where numba is installed; the loops here are its twins.
"""

from __future__ import annotations

import importlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from bootstrap.als import Iteration
from streamer.factors.explicit import regress

if TYPE_CHECKING:
    from collections.abc import Callable

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_START = 0.1  # spread of the first vectors: at 0.01 descent needs epochs to leave the saddle
_RUN = 256  # rows that a thread takes at once
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Ratings:
    """E ratings: user, item (E,) int64, rating and weight (E,) float64, time (E,) ms; of ``users`` and ``items``."""

    user: I64
    item: I64
    rating: F64
    weight: F64
    time: I64
    users: int
    items: int

    def __len__(self) -> int:
        return len(self.rating)

    @property
    def mean(self) -> float:
        """μ."""
        return float(np.average(self.rating, weights=self.weight)) if self.weight.any() else 0.0


@dataclass(frozen=True, slots=True)
class Ridges:
    """λ of users, items, users' biases and items' biases."""

    users: float
    items: float
    user_bias: float
    item_bias: float

    def __post_init__(self) -> None:
        if not min(self.users, self.items, self.user_bias, self.item_bias) > 0:
            raise ValueError(f"every ridge must be above 0: {self}")


@dataclass(frozen=True, slots=True)
class Descent:
    """Steps of gradient descent: ``rate`` of the first epoch, times ``decay`` in each that follows.

    reg_users, reg_items, reg_biases: λ a rating; reg_seen: λ a rating of what was rated at all, 0 for no such term;
    bins: spans of time with a bias of their own an item.
    """

    rate: float = 0.012
    decay: float = 0.98
    reg_users: float = 0.1
    reg_items: float = 0.1
    reg_biases: float = 0.01
    reg_seen: float = 0.0
    bins: int = 1

    def __post_init__(self) -> None:
        if not (self.rate > 0 and 0 < self.decay <= 1 and self.bins >= 1):
            raise ValueError(f"rate must be above 0, decay from above 0 to 1, bins at least 1: {self}")


@dataclass(frozen=True, slots=True)
class Fitted:
    """users (n, k + 1) and items (m, k + 1), float64, biases last; mean: μ."""

    users: F64
    items: F64
    mean: float

    def predict(self, user: npt.NDArray[Any], item: npt.NDArray[Any]) -> F64:
        """r̂ of pairs (E,)."""
        out = np.empty(len(user))
        for at in range(0, len(user), _CHUNK):
            x, y = self.users[user[at : at + _CHUNK]], self.items[item[at : at + _CHUNK]]
            out[at : at + _CHUNK] = self.mean + x[:, -1] + y[:, -1] + np.einsum("ij,ij->i", x[:, :-1], y[:, :-1])
        return out


def biases_only(ratings: Ratings, ridges: Ridges, rounds: int = 10) -> Fitted:
    """The model of no dimension: μ, b_u and b_i, by alternation."""
    mean, bu, bi = ratings.mean, np.zeros(ratings.users), np.zeros(ratings.items)
    user, item, rest, weight = ratings.user, ratings.item, ratings.rating - mean, ratings.weight
    of_user = np.bincount(user, weight, ratings.users) + ridges.user_bias
    of_item = np.bincount(item, weight, ratings.items) + ridges.item_bias
    for _ in range(rounds):
        bi = np.bincount(item, weight * (rest - bu[user]), ratings.items) / of_item
        bu = np.bincount(user, weight * (rest - bi[item]), ratings.users) / of_user
    return Fitted(bu[:, None], bi[:, None], mean)


def fit_als(
    ratings: Ratings,
    dimension: int,
    rounds: int,
    ridges: Ridges,
    seed: int,
    on_iteration: Callable[[Iteration], None] = lambda _: None,
    *,
    patience: float = 0.0,
    threads: int = 0,
    start: F32 | None = None,
) -> Fitted:
    """Alternate exact half-steps; the same bytes for the same ratings, seed and start, on however many threads.

    ``patience``: stop when a round lowers the loss by less than this share; ``start``: (m, k + 1), where the items
    begin, a row that is not finite at random.
    """
    users, items = _begin(ratings, dimension, ridges, seed, start)
    mean, before = ratings.mean, np.inf
    by_user = _Side.of(ratings.user, ratings.item, ratings, ratings.users)
    by_item = _Side.of(ratings.item, ratings.user, ratings, ratings.items)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1, "als") as pool:
        for number in range(1, rounds + 1):
            by_user.solve(pool, items, users, mean, ridges.users, ridges.user_bias)
            by_item.solve(pool, users, items, mean, ridges.items, ridges.item_bias)
            lost = loss(ratings, Fitted(users, items, mean), ridges)
            on_iteration(Iteration(number, rounds, lost))
            if before - lost < patience * abs(lost):
                break
            before = lost
        # Users last, so that they are exact against the items that are published.
        by_user.solve(pool, items, users, mean, ridges.users, ridges.user_bias)
    return Fitted(users, items, mean)


def loss(ratings: Ratings, fitted: Fitted, ridges: Ridges) -> float:
    """L of the module's docstring."""
    error = ratings.rating - fitted.predict(ratings.user, ratings.item)
    x, y = fitted.users, fitted.items
    return float(
        np.sum(ratings.weight * error * error)
        + ridges.users * np.sum(x[:, :-1] ** 2)
        + ridges.items * np.sum(y[:, :-1] ** 2)
        + ridges.user_bias * np.sum(x[:, -1] ** 2)
        + ridges.item_bias * np.sum(y[:, -1] ** 2)
    )


def _begin(ratings: Ratings, dimension: int, ridges: Ridges, seed: int, start: F32 | None) -> tuple[F64, F64]:
    """Users at their biases, items at theirs with small random vectors."""
    plain, draw = biases_only(ratings, ridges), np.random.default_rng(seed)
    users, items = np.zeros((ratings.users, dimension + 1)), np.zeros((ratings.items, dimension + 1))
    users[:, -1], items[:, -1] = plain.users[:, 0], plain.items[:, 0]
    items[:, :-1] = draw.standard_normal((ratings.items, dimension)) * _START
    if start is not None:
        if start.shape != items.shape:
            raise ValueError(f"the start {start.shape} does not fit {items.shape}")
        known = np.isfinite(start).all(axis=1)
        items[known] = start[known]
    return users, items


@dataclass(frozen=True, slots=True)
class _Side:
    """One side's ratings row by row: row i has start[i] to start[i + 1] of other (row of the other side), r and w."""

    start: I64
    other: I64
    rating: F64
    weight: F64

    @classmethod
    def of(cls, row: I64, other: I64, ratings: Ratings, rows: int) -> _Side:
        order = np.argsort(row, kind="stable")
        start = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(row, minlength=rows))])
        return cls(start, other[order], ratings.rating[order], ratings.weight[order])

    def solve(
        self, pool: ThreadPoolExecutor, fixed: F64, moving: F64, mean: float, ridge: float, ridge_bias: float
    ) -> None:
        """Solve every row of ``moving`` (n, k + 1), in place, against ``fixed`` (m, k + 1); no ratings: zeros."""
        kernel = _kernel()
        work = self._plain if kernel is None else kernel.solve_rows

        def run(first: int) -> None:
            last = min(first + _RUN, len(moving))
            work(self.start, self.other, self.rating, self.weight, first, last, fixed, mean, ridge, ridge_bias, moving)

        list(pool.map(run, range(0, len(moving), _RUN)))

    @staticmethod
    def _plain(
        start: I64, other: I64, rating: F64, weight: F64, first: int, last: int, fixed: F64, mean: float, ridge: float,
        ridge_bias: float, moving: F64,
    ) -> None:  # fmt: skip
        """The twin of `explicit_kernel.solve_rows`."""
        for row in range(first, last):
            part = slice(start[row], start[row + 1])
            moving[row] = regress(fixed[other[part]], rating[part], weight[part], mean, ridge, ridge_bias)


def fit_sgd(
    ratings: Ratings,
    dimension: int,
    epochs: int,
    descent: Descent,
    seed: int,
    on_iteration: Callable[[Iteration], None] = lambda _: None,
    *,
    patience: float = 0.0,
    start: F32 | None = None,
) -> Fitted:
    """Descend rating by rating; the same bytes for the same ratings, seed and start.

    ``on_iteration`` hears the sum of squared errors, each measured before its rating's step; ``patience`` and ``start``
    as in `fit_als`. An item's bias leaves with its newest bin's part.
    """
    draw = np.random.default_rng(seed)
    shape = (ratings.users, dimension + 1), (ratings.items, dimension + 1)
    users, items = (draw.standard_normal(one) * _START for one in shape)
    users[:, -1], items[:, -1] = 0.0, 0.0
    if start is not None:
        if start.shape != items.shape:
            raise ValueError(f"the start {start.shape} does not fit {items.shape}")
        known = np.isfinite(start).all(axis=1)
        items[known] = start[known]
    drift, bin_of = np.zeros((ratings.items, descent.bins)), _bins(ratings.time, descent.bins)
    seen = np.zeros((ratings.items if descent.reg_seen else 0, dimension))
    kernel = _kernel()
    step: Callable[..., float] = _descend if kernel is None else kernel.descend
    mean, before, rate = ratings.mean, np.inf, descent.rate
    taken = ratings.user, ratings.item, bin_of, ratings.rating, ratings.weight
    columns = [np.ascontiguousarray(column) for column in taken]  # the compiled loop takes no others
    for number in range(1, epochs + 1):
        order = draw.permutation(len(ratings))
        if descent.reg_seen:
            # A user's ratings together, so that the sum over them is made once.
            order = order[np.argsort(draw.permutation(ratings.users)[ratings.user[order]], kind="stable")]
        regs = descent.reg_users, descent.reg_items, descent.reg_biases, descent.reg_seen
        lost = float(step(order, *columns, mean, users, items, drift, seen, rate, *regs))
        on_iteration(Iteration(number, epochs, lost))
        if not np.isfinite(lost) or before - lost < patience * abs(lost):
            break
        before, rate = lost, rate * descent.decay
    items[:, -1] += drift[:, -1]
    if descent.reg_seen:
        rated = csr_array((np.ones(len(ratings)), (ratings.user, ratings.item)), shape=(len(users), len(items)))
        users[:, :-1] += (rated @ seen) / np.sqrt(np.maximum(rated.sum(axis=1), 1.0))[:, None]
    return Fitted(users, items, mean)


def _bins(time: I64, bins: int) -> I64:
    """(E,) the span of the training's time that each rating falls into."""
    if bins == 1 or not len(time):
        return np.zeros(len(time), np.int64)
    first, span = int(time.min()), max(int(time.max() - time.min()), 1)
    return np.minimum((time - first) * bins // span, bins - 1)


def _descend(
    order: I64, user: I64, item: I64, bin_of: I64, rating: F64, weight: F64, mean: float, users: F64, items: F64,
    drift: F64, seen: F64, rate: float, reg_users: float, reg_items: float, reg_biases: float, reg_seen: float,
) -> float:  # fmt: skip
    """The twin of `explicit_kernel.descend`: one epoch, in place; returns the sum of w e^2."""
    lost = 0.0
    runs = np.flatnonzero(np.diff(user[order])) + 1 if len(seen) else np.arange(1, len(order))
    for run in np.split(order, runs):
        share, offset, pull = len(run) ** -0.5, np.zeros(users.shape[1] - 1), np.zeros(users.shape[1] - 1)
        if len(seen):
            offset = share * seen[item[run]].sum(axis=0)
        for at in run.tolist():
            x, y, w = users[user[at]], items[item[at]], weight[at]
            before, part = x[:-1] + offset, drift[item[at], bin_of[at]]
            error = rating[at] - mean - x[-1] - y[-1] - part - float(before @ y[:-1])
            lost += w * error * error
            pull += w * error * y[:-1]
            x[:-1] += rate * (w * error * y[:-1] - reg_users * x[:-1])
            y[:-1] += rate * (w * error * before - reg_items * y[:-1])
            x[-1] += rate * (w * error - reg_biases * x[-1])
            y[-1] += rate * (w * error - reg_biases * y[-1])
            if drift.shape[1] > 1:
                drift[item[at], bin_of[at]] += rate * (w * error - reg_biases * part)
        if len(seen):
            seen[item[run]] += rate * (share * pull - reg_seen * seen[item[run]])
    return lost


@cache
def _kernel() -> Any:
    """The compiled loops, None where there is no compiler."""
    try:
        return importlib.import_module("bootstrap.explicit_kernel")
    except ImportError:
        return None
