"""Explicit ratings: what is learned from, what is learned, and ALS with biases. `bootstrap.descent` is Funk's SVD.

    r̂ = μ + b_u + b_i + x.y        a user's row is [x, b_u], an item's [y, b_i]        μ the mean of all ratings

    L = sum w (r - r̂)^2 + ridge_u |X|^2 + ridge_i |Y|^2 + ridge_bu |b_u|^2 + ridge_bi |b_i|^2

ALS solves each row of one side exactly against the other (`streamer.factors.explicit.regress`, which the stream solves
users by), so L never rises. `bootstrap.explicit_kernel` does it compiled where numba is installed; the loop here is its
twin.
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

from bootstrap.als import Iteration, has_settled
from streamer.factors.explicit import regress

if TYPE_CHECKING:
    from collections.abc import Callable

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

START = 0.1  # spread of the first vectors: at 0.01 descent needs epochs to leave the saddle
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
            if has_settled(before, lost, patience):
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
    items[:, :-1] = draw.standard_normal((ratings.items, dimension)) * START
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
        compiled = kernel()
        work = self._plain if compiled is None else compiled.solve_rows

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


@cache
def kernel() -> Any:
    """The compiled loops, None where there is no compiler."""
    try:
        return importlib.import_module("bootstrap.explicit_kernel")
    except ImportError:
        return None
