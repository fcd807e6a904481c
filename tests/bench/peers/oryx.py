"""Oryx 2's update rule, written from its description (`ALSUtils.computeUpdatedXu` and its documentation).

    q = x.y                                             0 where there is no x yet
    t = q + r/(1+r) (1 - max(0, q))                     r > 0 and q < 1; q = 1/2 stands for a missing x
    t = q + r/(r-1) (-min(1, q))                        r < 0 and q > 0; likewise
    x = x + (Y'Y)^-1 y (t - q)                          items likewise, by X'X

Both vectors move from where they were before the event. Oryx refreshes Y'Y and X'X in the background; here they are
up to date at every event. Its batch layer is an implicit ALS; here it is this project's, with parameters of its own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tests.bench.peers.batch import train
from tests.bench.peers.events import F64, Split

_PRIOR = 0.5


def updated(gram: F64, x: F64 | None, y: F64, strength: float) -> F64 | None:
    """The vector x (k,) after one event with y (k,), gram: (k, k) Gramian of all y; None where nothing is done."""
    score = 0.0 if x is None else float(x @ y)
    prior = _PRIOR if x is None else score
    if strength > 0 and prior < 1:
        target = prior + strength / (1 + strength) * (1 - max(0.0, prior))
    elif strength < 0 and prior > 0:
        target = prior + strength / (strength - 1) * -min(1.0, prior)
    else:
        return None
    change: F64 = np.linalg.solve(gram, y).astype(np.float64) * (target - score)
    return change if x is None else x + change


class Oryx:
    """strength: r of every event."""

    def __init__(self, seed: int, *, dimension: int, alpha: float, ridge: float, strength: float) -> None:
        self._seed, self._k, self._alpha, self._ridge = seed, dimension, alpha, ridge
        self._strength = strength

    def fit(self, split: Split) -> None:
        """The batch layer."""
        model = train(split, self._k, alpha=self._alpha, ridge=self._ridge, seed=self._seed)
        self.users, self._has_user = _with_room(model.users, split.users)
        self.items, self._has_item = _with_room(model.items, split.items)
        self.gram_users, self.gram_items = self.users.T @ self.users, self.items.T @ self.items

    def scores(self, user: int) -> F64 | None:
        """x.y of every item."""
        return self.items @ self.users[user] if self._has_user[user] else None

    def learn(self, user: int, item: int) -> None:
        """Both vectors from those before the event; of a new user with a new item nothing can be said."""
        x = self.users[user] if self._has_user[user] else None
        y = self.items[item] if self._has_item[item] else None
        new_x = updated(self.gram_items, x, y, self._strength) if y is not None else None
        new_y = updated(self.gram_users, y, x, self._strength) if x is not None else None
        if new_x is not None:
            self.gram_users += np.outer(new_x, new_x) - np.outer(self.users[user], self.users[user])
            self.users[user], self._has_user[user] = new_x, True
        if new_y is not None:
            self.gram_items += np.outer(new_y, new_y) - np.outer(self.items[item], self.items[item])
            self.items[item], self._has_item[item] = new_y, True


def _with_room(vectors: F64, count: int) -> tuple[F64, npt.NDArray[np.bool_]]:
    """The vectors with zero rows for those to come, and which are there."""
    out = np.zeros((count, vectors.shape[1]))
    out[: len(vectors)] = vectors
    return out, np.arange(count) < len(vectors)
