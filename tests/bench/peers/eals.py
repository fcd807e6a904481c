"""eALS (He, Zhang, Kan, Chua 2016, doi 10.1145/2911451.2911489): element-wise ALS and its online update.

    L = sum over observed w (1 - x.y)^2 + sum over unobserved c_i (x.y)^2 + λ (|X|^2 + |Y|^2)
    x_f = (sum_i [w - (w - c_i) r^f] y_f - sum_{g≠f} x_g S_gf) / (sum_i (w - c_i) y_f^2 + S_ff + λ)
    y_f = (sum_u [w - (w - c_i) r^f] x_f - c_i sum_{g≠f} y_g T_gf) / (sum_u (w - c_i) x_f^2 + c_i T_ff + λ)
    S = sum_i c_i y y'      T = X'X      r^f = x.y - x_f y_f      c_i = c0 p_i^0.5 / sum p^0.5

p is the item's share of the events before the cut; an item that is new has c_i = c0 / items. Online, the new pair joins
with weight ``w_new``, then the user's vector is swept once, then the item's; S and T follow. Compiled where numba is
installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.bench.peers.events import F64, Split


def sweep(vector: F64, others: F64, w: F64, c: F64, gram: F64, share: float, ridge: float) -> None:
    """One sweep over the coordinates of ``vector`` (k,), in place.

    Args:
        vector: x or y.
        others: (n, k) vectors of the other side that it was observed with.
        w: (n,) weights of these pairs.
        c: (n,) what they would weigh unobserved.
        gram: (k, k) S for a user, T for an item.
        share: 1 for a user, c_i for an item.
        ridge: λ.
    """
    n, k = others.shape
    scores = np.zeros(n)
    for at in range(n):
        for f in range(k):
            scores[at] += vector[f] * others[at, f]
    for f in range(k):
        old, above, below = vector[f], 0.0, share * gram[f, f] + ridge
        for g in range(k):
            if g != f:
                above -= share * vector[g] * gram[g, f]
        for at in range(n):
            scores[at] -= old * others[at, f]
            above += (w[at] - (w[at] - c[at]) * scores[at]) * others[at, f]
            below += (w[at] - c[at]) * others[at, f] * others[at, f]
        vector[f] = above / below
        for at in range(n):
            scores[at] += vector[f] * others[at, f]


def compiled() -> Callable[..., None]:
    """`sweep`, by numba where it is installed."""
    try:
        from numba import njit
    except ImportError:
        return sweep
    quick: Any = njit(cache=False)(sweep)
    return quick  # type: ignore[no-any-return]


class EALS:
    """``c0``: the weight of all unobserved pairs of a user together; ``passes``: sweeps over all rows in the batch."""

    def __init__(
        self, seed: int, *, dimension: int, ridge: float, c0: float, w_new: float, passes: int = 15, power: float = 0.5
    ) -> None:
        self._draw, self._sweep = np.random.default_rng(seed), compiled()
        self._k, self._ridge, self._c0, self._w_new = dimension, ridge, c0, w_new
        self._passes, self._power = passes, power

    def fit(self, split: Split) -> None:
        """The batch: users, then items, ``passes`` times."""
        share = np.bincount(split.before.item, minlength=split.known_items).astype(np.float64) ** self._power
        self.c = np.full(split.items, self._c0 / split.known_items)
        self.c[: split.known_items] = self._c0 * share / share.sum()
        self.users = np.zeros((split.users, self._k))
        self.users[: split.known_users] = self._draw.normal(0.0, 0.01, (split.known_users, self._k))
        self.items = np.zeros((split.items, self._k))
        self.items[: split.known_items] = self._draw.normal(0.0, 0.01, (split.known_items, self._k))
        self._of_user: list[list[int]] = [[] for _ in range(split.users)]
        self._of_item: list[list[int]] = [[] for _ in range(split.items)]
        self._user_w: list[list[float]] = [[] for _ in range(split.users)]
        self._item_w: list[list[float]] = [[] for _ in range(split.items)]
        for user, item in zip(split.before.user.tolist(), split.before.item.tolist(), strict=True):
            self._observe(user, item, 1.0)
        for _ in range(self._passes):
            self._recount()
            for user in range(split.known_users):
                self.sweep_user(user)
            for item in range(split.known_items):
                self.sweep_item(item)
        self._recount()

    def _recount(self) -> None:
        self.gram_items = (self.items * self.c[:, None]).T @ self.items
        self.gram_users = self.users.T @ self.users

    def _observe(self, user: int, item: int, weight: float) -> None:
        self._of_user[user].append(item)
        self._user_w[user].append(weight)
        self._of_item[item].append(user)
        self._item_w[item].append(weight)

    def sweep_user(self, user: int) -> None:
        """Sweep x, and let T follow."""
        x, items = self.users[user], self._of_user[user]
        old = x.copy()
        w, c = np.array(self._user_w[user]), self.c[items]
        self._sweep(x, self.items[items], w, c, self.gram_items, 1.0, self._ridge)
        self.gram_users += np.outer(x, x) - np.outer(old, old)

    def sweep_item(self, item: int) -> None:
        """Sweep y, and let S follow."""
        y, users, c = self.items[item], self._of_item[item], float(self.c[item])
        old = y.copy()
        w = np.array(self._item_w[item])
        self._sweep(y, self.users[users], w, np.full(len(users), c), self.gram_users, c, self._ridge)
        self.gram_items += c * (np.outer(y, y) - np.outer(old, old))

    def scores(self, user: int) -> F64 | None:
        """x.y of every item."""
        return self.items @ self.users[user] if self._of_user[user] else None

    def learn(self, user: int, item: int) -> None:
        """The pair joins, then one sweep of each side; a vector that is new begins at random."""
        if not self._of_user[user]:
            self.users[user] = self._fresh(self.users[user])
            self.gram_users += np.outer(self.users[user], self.users[user])
        if not self._of_item[item]:
            self.items[item] = self._fresh(self.items[item])
            self.gram_items += self.c[item] * np.outer(self.items[item], self.items[item])
        self._observe(user, item, self._w_new)
        self.sweep_user(user)
        self.sweep_item(item)

    def _fresh(self, row: F64) -> F64:
        """Zeros of a row that was never used become small numbers."""
        return row if row.any() else self._draw.normal(0.0, 0.01, self._k)
