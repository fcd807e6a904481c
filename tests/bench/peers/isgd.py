"""Incremental SGD for positive-only feedback (Vinagre, Jorge, Gama 2014, doi 10.1007/978-3-319-08786-3_41).

    e = 1 - x.y      x += η (e y - λ x)      y += η (e x - λ y)      both from before the event

Items are ranked by |1 - x.y|, the nearest first. The batch half is learnt in time order, ``passes`` times; new rows
are drawn from N(0, 0.1).
"""

from __future__ import annotations

import numpy as np

from tests.bench.peers.events import F64, Split


def stepped(x: F64, y: F64, rate: float, reg: float) -> tuple[F64, F64]:
    """Both vectors (k,) after one event."""
    error = 1.0 - float(x @ y)
    return x + rate * (error * y - reg * x), y + rate * (error * x - reg * y)


class ISGD:
    """See the module docstring."""

    def __init__(self, seed: int, *, dimension: int, rate: float, reg: float, passes: int) -> None:
        self._draw = np.random.default_rng(seed)
        self._k, self._rate, self._reg, self._passes = dimension, rate, reg, passes

    def fit(self, split: Split) -> None:
        """Replay the batch half."""
        self.users = self._draw.normal(0.0, 0.1, (split.users, self._k))
        self.items = self._draw.normal(0.0, 0.1, (split.items, self._k))
        self._met = np.zeros(split.users, bool)
        for _ in range(self._passes):
            for user, item in zip(split.before.user.tolist(), split.before.item.tolist(), strict=True):
                self.learn(user, item)

    def scores(self, user: int) -> F64 | None:
        """Minus the distance of x.y from 1."""
        return -np.abs(1.0 - self.items @ self.users[user]) if self._met[user] else None

    def learn(self, user: int, item: int) -> None:
        """One step."""
        self._met[user] = True
        self.users[user], self.items[item] = stepped(self.users[user], self.items[item], self._rate, self._reg)
