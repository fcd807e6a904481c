"""`implicit` (benfred/implicit), CPU ALS and its `partial_fit_users`, found at run time.

    A = Y'Y + λI + sum (c - 1) y y'      b = sum c y      c = alpha

Exact for the user when it is given the whole history. Fed with the new event alone, as its users' issue trackers tell
of, it forgets all the rest. Items stand still: `partial_fit_items` would drop the cached Y'Y at every event.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from tests.bench.peers.events import F64, Split


class ImplicitALS:
    """``whole``: give it all that the user ever had at each event, else the new event alone."""

    def __init__(self, seed: int, *, whole: bool, factors: int, alpha: float, regularization: float) -> None:
        # numpy's and scipy's BLAS are held to one thread by the bench; so is implicit's OpenMP.
        self._whole = whole
        self._model: Any = importlib.import_module("implicit.cpu.als").AlternatingLeastSquares(
            factors=factors,
            alpha=alpha,
            regularization=regularization,
            iterations=15,
            random_state=seed,
            num_threads=1,
        )

    def fit(self, split: Split) -> None:
        """Batch ALS; users who are yet to come have empty rows, so that its matrices need not grow."""
        self._items = split.known_items
        self._had = split.histories()
        shape = (split.users, split.known_items)
        ones = np.ones(len(split.before), np.float32)
        self._model.fit(csr_matrix((ones, (split.before.user, split.before.item)), shape=shape), show_progress=False)
        self._next, self._after = 0, split.after

    def scores(self, user: int) -> F64 | None:
        """x.y of every item."""
        if not self._had[user]:
            return None
        scores: F64 = (self._model.item_factors @ self._model.user_factors[user]).astype(np.float64)
        return scores

    def learn(self, user: int, item: int) -> None:
        """One call of `partial_fit_users`; an unknown item cannot be told to it."""
        self.learn_together(1)

    def learn_together(self, count: int) -> None:
        """The next events, their users in one call."""
        new: dict[int, list[int]] = {}
        part = slice(self._next, self._next + count)
        self._next += count
        for user, item in zip(self._after.user[part].tolist(), self._after.item[part].tolist(), strict=True):
            if item < self._items:
                self._had[user].append(item)
                new.setdefault(user, []).append(item)
        if new:
            lists = [self._had[user] for user in new] if self._whole else list(new.values())
            counts = np.cumsum([0, *map(len, lists)])
            items = np.concatenate([np.array(one, np.int32) for one in lists])
            rows = csr_matrix((np.ones(len(items), np.float32), items, counts), shape=(len(new), self._items))
            self._model.partial_fit_users(np.array(list(new)), rows)
