"""BPR: rank what a user has had above what the user has not (Rendle et al. 2009, arXiv:1205.2618).

    lowers   sum ln(1 + exp(-d)) + reg_users |x|^2 + reg_items (|y_i|^2 + |y_j|^2)      d = x.(y_i - y_j)
    step     g = 1 / (1 + exp(d))
             x += rate (g (y_i - y_j) - reg_users x)     y_i += rate (g x - reg_items y_i)     y_j likewise by -g

An epoch takes as many triples (user, item i that the user has had, item j that the user has not) as there are pairs:
the pair is drawn evenly, j by popularity to the power `negative_popularity`, 0 being all items alike.
What is drawn comes from the seed before the epoch begins, so that the compiled loop (`bootstrap.bpr_kernel`, where
numba is installed) and its twin here take the same triples. Only the item vectors leave this file: users are solved
against them by the stream's own solver, as after ALS.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bootstrap.als import Iteration, has_settled

if TYPE_CHECKING:
    from collections.abc import Callable

    from scipy.sparse import csr_array

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_START = 0.1
_WATCHED = 20_000  # triples at most that patience looks at
_REDRAWS = 10  # rounds in which a negative that its user has had is drawn anew; what is left over is left out


@dataclass(frozen=True, slots=True)
class Ranking:
    """``rate`` of the first epoch, times ``decay`` in each that follows; the rest as in the module's docstring."""

    rate: float = 0.05
    decay: float = 0.98
    reg_users: float = 0.01
    reg_items: float = 0.01
    negative_popularity: float = 0.0

    def __post_init__(self) -> None:
        if not (self.rate > 0 and 0 < self.decay <= 1 and min(self.reg_users, self.reg_items) >= 0):
            raise ValueError(f"rate must be above 0, decay from above 0 to 1, no ridge below 0: {self}")


def fit_bpr(
    by_user: csr_array,
    dimension: int,
    epochs: int,
    ranking: Ranking,
    seed: int,
    on_iteration: Callable[[Iteration], None],
    *,
    patience: float = 0.0,
    start: F32 | None = None,
) -> F32:
    """Item vectors (items, k); the same bytes for the same matrix, seed and start.

    by_user: (users, items), of which only the pairs count; start: (items, k), a row that is not finite is random;
    ``on_iteration`` hears the sum of ln(1 + exp(-d)), each measured before its step. An epoch's triples are its own, so
    that this sum also rises by chance: ``patience`` judges the same sum over some triples that stay.
    """
    draw = np.random.default_rng(seed)
    count, items = by_user.shape
    x, y = (draw.standard_normal((rows, dimension)) * _START for rows in (count, items))
    if start is not None:
        if start.shape != y.shape:
            raise ValueError(f"the start {start.shape} does not fit {y.shape}")
        known = np.isfinite(start).all(axis=1)
        y[known] = start[known]
    pairs = _Pairs(by_user, ranking.negative_popularity)
    kernel = _kernel()
    step = _climb if kernel is None else kernel
    watched = pairs.draw(np.random.default_rng((seed, 1)), _WATCHED) if patience else None
    rate, before = ranking.rate, np.inf
    for number in range(1, epochs + 1):
        triples = pairs.draw(draw)
        lost = float(step(*triples, x, y, rate, ranking.reg_users, ranking.reg_items))
        on_iteration(Iteration(number, epochs, lost))
        if not np.isfinite(lost):
            break
        if watched is not None:
            loss = _loss(*watched, x, y)
            if has_settled(before, loss, patience):
                break
            before = loss
        rate *= ranking.decay
    return y.astype(np.float32)


class _Pairs:
    """Draws triples."""

    def __init__(self, by_user: csr_array, negative_popularity: float) -> None:
        self._items = by_user.shape[1]
        self._user = np.repeat(np.arange(by_user.shape[0]), np.diff(by_user.indptr)).astype(np.int64)
        self._item = by_user.indices.astype(np.int64)
        self._pairs = np.sort(self._user * self._items + self._item)
        popularity = np.bincount(self._item, minlength=self._items).astype(np.float64)
        # Up to which point of [0, 1) an item is the one that is drawn.
        self._upto = np.cumsum(popularity**negative_popularity)
        self._upto /= self._upto[-1]

    def draw(self, draw: np.random.Generator, most: int | None = None) -> tuple[I64, I64, I64]:
        """User, positive and negative item of each triple of an epoch, or of so many of them."""
        chosen = draw.integers(0, len(self._user), len(self._user))[:most]
        user, item = self._user[chosen], self._item[chosen]
        other = self._negatives(draw, len(user))
        had = np.flatnonzero(self._had(user, other))
        for _ in range(_REDRAWS):
            if not len(had):
                break
            other[had] = self._negatives(draw, len(had))
            had = had[self._had(user[had], other[had])]
        # Users who have had nearly all there is: nothing can be learned from what is left of them.
        keep = np.ones(len(user), bool)
        keep[had] = False
        return user[keep], item[keep], other[keep]

    def _negatives(self, draw: np.random.Generator, count: int) -> I64:
        at = np.searchsorted(self._upto, draw.random(count), side="right")
        return np.asarray(np.minimum(at, self._items - 1), np.int64)

    def _had(self, user: I64, item: I64) -> npt.NDArray[np.bool_]:
        wanted = user * self._items + item
        at = np.minimum(np.searchsorted(self._pairs, wanted), len(self._pairs) - 1)
        return np.asarray(self._pairs[at] == wanted)


def _loss(user: I64, item: I64, other: I64, users: F64, items: F64) -> float:
    """The sum of ln(1 + exp(-d)) over triples."""
    d = np.einsum("ij,ij->i", users[user], items[item] - items[other])
    return float(np.logaddexp(0.0, -d).sum())


def _climb(
    user: I64, item: I64, other: I64, users: F64, items: F64, rate: float, reg_users: float, reg_items: float
) -> float:
    """The twin of `bpr_kernel.climb`: one epoch, in place; returns the sum of ln(1 + exp(-d))."""
    lost = 0.0
    for u, i, j in zip(user.tolist(), item.tolist(), other.tolist(), strict=True):
        x, apart = users[u].copy(), items[i] - items[j]
        d = float(x @ apart)
        lost += float(np.logaddexp(0.0, -d))
        g = float(np.exp(-np.logaddexp(0.0, d)))
        users[u] += rate * (g * apart - reg_users * x)
        items[i] += rate * (g * x - reg_items * items[i])
        items[j] += rate * (-g * x - reg_items * items[j])
    return lost


@cache
def _kernel() -> Any:
    """The compiled loop, None where there is no compiler."""
    try:
        return importlib.import_module("bootstrap.bpr_kernel").climb
    except ImportError:
        return None
