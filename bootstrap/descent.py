"""Explicit ratings by stochastic gradient descent: Funk's SVD with biases, one rating after the other.

    e = r - r̂        [x, b_u] += rate (w e [y, 1] - [reg_u x, reg_b b_u])        [y, b_i] likewise, by the old x

The ratings come in a seeded order, and the rate shrinks with every epoch. With `reg_seen` > 0 what a user has rated at
all counts too (SVD++, Koren 2008, doi 10.1145/1401890.1401944)::

    x = p + |N|^(-1/2) sum z_j   over the user's N rated items; p and every z are learned, x is what leaves this file

With `bins` > 1 an item's bias has a part of its own for each equal span of the training's time (timeSVD's b_i(t), Koren
2009, doi 10.1145/1557019.1557072), and the last of them is part of the bias that leaves this file: the one that holds
now. `bootstrap.explicit_kernel` does the loop compiled, where numba is installed; the one here is its twin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from bootstrap import explicit
from bootstrap.als import Iteration, has_settled

if TYPE_CHECKING:
    from collections.abc import Callable

    from bootstrap.explicit import Fitted, Ratings

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


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
    users, items = (draw.standard_normal(one) * explicit.START for one in shape)
    users[:, -1], items[:, -1] = 0.0, 0.0
    if start is not None:
        if start.shape != items.shape:
            raise ValueError(f"the start {start.shape} does not fit {items.shape}")
        known = np.isfinite(start).all(axis=1)
        items[known] = start[known]
    drift, bin_of = np.zeros((ratings.items, descent.bins)), _bins(ratings.time, descent.bins)
    seen = np.zeros((ratings.items if descent.reg_seen else 0, dimension))
    compiled = explicit.kernel()
    step: Callable[..., float] = _descend if compiled is None else compiled.descend
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
        if not np.isfinite(lost) or has_settled(before, lost, patience):
            break
        before, rate = lost, rate * descent.decay
    items[:, -1] += drift[:, -1]
    if descent.reg_seen:
        rated = csr_array((np.ones(len(ratings)), (ratings.user, ratings.item)), shape=(len(users), len(items)))
        users[:, :-1] += (rated @ seen) / np.sqrt(np.maximum(rated.sum(axis=1), 1.0))[:, None]
    return explicit.Fitted(users, items, mean)


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
