"""Where does a sampled event's item stand among all items, before the event is learnt? By three models.

live
    The user's vector as it was, the items as they are (the event's own item as it was).
frozen
    The items as they were when the generation was taken up; the user's vector solved against them from the entries of
    the kept history that are not newer than the training data: fewer where later events have pushed them out or were on
    the same items. A user without any gets what is popular.
popularity
    How often each item was acted on: in the training data, as far as the manifest tells, and since the start.

Items that the user has had are left out, and items of the same score share their place: a position is the number of
better ones and half the number of equal ones. It is from 0, and infinite where a model does not know the item.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from schemas.records import Manifest, Reference
from streamer.factors.gram import gramian
from streamer.factors.solve import solve_cholesky
from streamer.factors.space import ItemSpace
from streamer.factors.weigh import confidence_now, inside_window
from streamer.steps.items import Items
from streamer.steps.sampled import Trials

MODELS = ("live", "frozen", "popularity")

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

_BLOCK = 16_384  # items ranked at once


@dataclass(frozen=True, slots=True)
class Judged:
    """ranks: model -> (S,) positions; known: (S,) users of the training data; scores, norms: (S,) of live vectors."""

    ranks: dict[str, FloatArray]
    known: npt.NDArray[np.bool_]
    scores: FloatArray
    norms: FloatArray


class FrozenItems:
    """Item vectors (m, k) that no longer move, with what `solve_cholesky` asks of a space."""

    def __init__(self, space: ItemSpace) -> None:
        self.vectors, self.rule, self.dimension = space.vectors.copy(), space.rule, space.dimension
        self._weights = space.weights.copy() if space.weighted else None

    @cached_property
    def gramian(self) -> FloatArray:
        """V'diag(w)V, float64."""
        return gramian(self.vectors, self._weights)


class Judge:
    """Judges the samples of one generation. It holds a second copy of the item vectors.

    The live vectors are read while another thread may be writing one: a single item may be ranked by a vector that is
    half old and half new. A lock would have the batches wait for the judge.
    """

    def __init__(self, manifest: Manifest, items: Items) -> None:
        self._policy, self._end = manifest.policy, manifest.training_data_end
        self._space = items.space
        self._frozen = FrozenItems(items.space)
        self._counts = np.zeros(items.space.size, np.int64)
        if isinstance(manifest.reference, Reference):
            for item_id, count in manifest.reference.popular_items.items():
                if (index := items.space.index_of(item_id)) >= 0:
                    self._counts[index] = count

    def count(self, applied: IntArray) -> None:
        """Note the items (A,) of applied events; not before the sample of the same batch is judged."""
        if not len(applied):
            return
        self._grow(int(applied.max()) + 1)
        np.add.at(self._counts, applied, 1)

    def judge(self, trials: Trials) -> Judged:
        """The positions of the trials' items."""
        vectors = self._space.vectors
        self._grow(len(vectors))
        item, history = trials.item, trials.history
        scores = np.vecdot(trials.vector, trials.target)
        popular = self._popular(item, history)
        known, frozen = self._frozen_users(trials)
        there = known & (item < len(self._frozen.vectors))
        frozen_ranks = np.where(known, np.inf, popular)
        targets = np.vecdot(frozen[there], self._frozen.vectors[item[there]])
        frozen_ranks[there] = _positions(frozen[there], targets, self._frozen.vectors, item[there], history[there])
        ranks = {
            "live": _positions(trials.vector, scores, vectors, item, history),
            "frozen": frozen_ranks,
            "popularity": popular,
        }
        norms = np.linalg.norm(trials.vector, axis=1)
        return Judged(ranks, known, scores.astype(np.float64), norms.astype(np.float64))

    def _frozen_users(self, trials: Trials) -> tuple[npt.NDArray[np.bool_], Float32Array]:
        """Who has a past in the training data (S,), and these users' frozen vectors (S, k)."""
        old = trials.used & (trials.time <= self._end)
        newest = np.max(trials.time, axis=1, keepdims=True, initial=0, where=old)
        old &= inside_window(trials.time, newest, self._policy)
        old &= (trials.history >= 0) & (trials.history < len(self._frozen.vectors))
        confidence = confidence_now(trials.strength, trials.time, old, self._policy)
        vectors = np.zeros_like(trials.vector)
        known: npt.NDArray[np.bool_] = np.asarray(old.any(axis=1), bool)
        for user in np.flatnonzero(known).tolist():
            mine = old[user]
            vectors[user] = solve_cholesky(
                self._frozen, trials.history[user, mine], confidence[user, mine], self._policy.rhs
            )
        return known, vectors

    def _popular(self, item: IntArray, history: npt.NDArray[np.int32]) -> FloatArray:
        """Positions by the counts; those of items without a count are behind all others."""
        out = np.zeros(len(item))
        for event, (number, had) in enumerate(zip(item.tolist(), history, strict=True)):
            mine, theirs = self._counts[number], self._counts[had[had >= 0]]
            better = np.count_nonzero(self._counts > mine) - np.count_nonzero(theirs > mine)
            equal = np.count_nonzero(self._counts == mine) - 1 - np.count_nonzero(theirs == mine)
            out[event] = better + equal / 2
        return out

    def _grow(self, size: int) -> None:
        if size > len(self._counts):
            self._counts = np.concatenate((self._counts, np.zeros(size - len(self._counts), np.int64)))


def _positions(
    users: Float32Array, scores: Float32Array, vectors: Float32Array, item: IntArray, history: npt.NDArray[np.int32]
) -> FloatArray:
    """The position of each user's item (S,), of a given score (S,), among the items (m, k) outside the history."""
    out = np.zeros(len(users))
    for start in range(0, len(vectors), _BLOCK) if len(users) else ():
        block = users @ vectors[start : start + _BLOCK].T
        inside = (history >= start) & (history < start + block.shape[1])
        row, slot = np.nonzero(inside)
        block[row, history[row, slot] - start] = -np.inf
        own = np.flatnonzero((item >= start) & (item < start + block.shape[1]))
        block[own, item[own] - start] = -np.inf
        out += np.count_nonzero(block > scores[:, None], axis=1)
        out += np.count_nonzero(block == scores[:, None], axis=1) / 2
    return out
