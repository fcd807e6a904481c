"""River's `BiasedMF`, found at run time: SGD on a squared loss over ratings, one event at a time.

Likes are no ratings, so each is learnt as 1, followed by ``negatives`` pairs of the same user with known items drawn
evenly from those that the user has not had, learnt as 0. The batch half is learnt likewise, in time order, ``passes``
times. Scores are `predict_one`'s formula over all items at once: mean + item bias + x.y (the user's bias is the same
for all).
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from tests.bench.peers.events import F64, Split


class River:
    """See the module docstring; ``rate`` and ``l2`` are those of biases and vectors alike."""

    def __init__(self, seed: int, *, factors: int, rate: float, l2: float, negatives: int, passes: int) -> None:
        optim, reco = importlib.import_module("river.optim"), importlib.import_module("river.reco")
        self._model: Any = reco.BiasedMF(
            n_factors=factors,
            bias_optimizer=optim.SGD(rate),
            latent_optimizer=optim.SGD(rate),
            l2_bias=l2,
            l2_latent=l2,
            latent_initializer=optim.initializers.Normal(mu=0.0, sigma=0.1, seed=seed),
            seed=seed,
        )
        self._draw = np.random.default_rng(seed)
        self._k, self._negatives, self._passes = factors, negatives, passes

    def fit(self, split: Split) -> None:
        """Replay the batch half."""
        self._items = split.known_items
        self._had: list[set[int]] = [set() for _ in range(split.users)]
        self._biases, self._latents = np.zeros(split.items), np.zeros((split.items, self._k))
        for _ in range(self._passes):
            for user, item in zip(split.before.user.tolist(), split.before.item.tolist(), strict=True):
                self.learn(user, item)

    def scores(self, user: int) -> F64 | None:
        """All items at once, but for what is the same for all."""
        if not self._had[user]:
            return None
        x: F64 = np.asarray(self._model.u_latents[user])
        return self._biases + self._latents @ x

    def learn(self, user: int, item: int) -> None:
        """One positive and its negatives."""
        had = self._had[user]
        had.add(item)
        self._learn(user, item, 1.0)
        for _ in range(self._negatives):
            other = int(self._draw.integers(self._items))
            while other in had:
                other = int(self._draw.integers(self._items))
            self._learn(user, other, 0.0)

    def _learn(self, user: int, item: int, rating: float) -> None:
        model = self._model
        model.learn_one(user, item, rating)
        self._biases[item], self._latents[item] = model.i_biases[item], model.i_latents[item]
