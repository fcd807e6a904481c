"""Where does a sampled event's item stand among all items, before the event is learnt? By three models.

live
    The user's vector as it was, the items as they are (the event's own item as it was).
frozen
    The items as they were trained; the user's vector solved against them from the entries of the kept history that are
    not newer than the training data. A user without any gets what is popular.
popularity
    How often each item was acted on: in the training data, as far as the manifest tells, and since the start.

Items that the user has had are left out, and items of the same score share their place: a position is the number of
better ones and half the number of equal ones. It is from 0, and infinite where a model does not know the item.

An entry of the history bears the time of its newest event: it leaves the frozen user's past when a later event touches
its item, or pushes it out, and a row does not say which entries did. What a row does say bounds them::

    old entries <= items of the past <= events of the past <= events - later ones,    later ones >= newer entries, keys

(of a ring of keys that is not full, the older keys in place of the difference). Where both ends are the same the past
is whole, and so it is where no entry is newer. Any other event can't be compared: it is a miss of no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.records import Manifest, Reference
from streamer.factors.frozen import FrozenItems
from streamer.factors.solve import solve_cholesky
from streamer.factors.weigh import confidence_now, inside_window
from streamer.steps.items import Items
from streamer.steps.sampled import Trials

MODELS = ("live", "frozen", "popularity")

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_BLOCK = 16_384  # items ranked at once


@dataclass(frozen=True, slots=True)
class Judged:
    """What was found of S events.

    ranks: model -> (S,) positions, without the frozen model where its vectors are lost; known: (S,) users of the
    training data; comparable: (S,) those whose frozen position is right; scores, norms: (S,) of live vectors.
    """

    ranks: dict[str, FloatArray]
    known: Mask
    comparable: Mask
    scores: FloatArray
    norms: FloatArray


class Judge:
    """Judges the samples of one generation, whose items hold a second copy of the vectors, as they were trained.

    The live vectors are read while another thread may be writing one: a single item may be ranked by a vector that is
    half old and half new. A lock would have the batches wait for the judge.
    """

    def __init__(self, manifest: Manifest, items: Items) -> None:
        self._policy, self._end = manifest.policy, manifest.training_data_end
        self._space = items.space
        self._frozen = items.trained
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
        ranks = {"live": _positions(trials.vector, scores, vectors, item, history), "popularity": popular}
        old = trials.used & (trials.time <= self._end)
        known: Mask = np.asarray(old.any(axis=1), bool)
        comparable = np.ones(len(trials), bool)
        if self._frozen is not None:
            comparable = self._whole(trials, old)
            newest = np.max(trials.time, axis=1, keepdims=True, initial=0, where=old)
            old &= inside_window(trials.time, newest, self._policy) & self._frozen.knows(history)
            known = np.where(comparable, old.any(axis=1), known | (self._acted(trials) > 0))
            ranks["frozen"] = self._frozen_positions(self._frozen, trials, old, popular)
        norms = np.linalg.norm(trials.vector, axis=1)
        return Judged(ranks, known, comparable, scores.astype(np.float64), norms.astype(np.float64))

    def _whole(self, trials: Trials, old: Mask) -> Mask:
        """Whose past is whole (S,); old: (S, H) the entries not newer than the training data."""
        kept = np.count_nonzero(trials.key_time, axis=1)
        acted = self._acted(trials)
        newer = np.count_nonzero(trials.used & ~old, axis=1)
        # What suppresses an item has a key, too, and is none of the events.
        later = np.maximum(newer, np.where(trials.suppressing, 0, kept - acted))
        at_most = np.where(kept < self._policy.keys_capacity, acted, trials.events - later)
        whole: Mask = (newer == 0) | (np.count_nonzero(old, axis=1) == at_most)
        return whole

    def _acted(self, trials: Trials) -> IntArray:
        """How many of each user's kept keys are not newer than the training data (S,)."""
        old = trials.key_time.astype(np.int64) * 1000 <= self._end
        return np.asarray(np.count_nonzero(old & (trials.key_time > 0), axis=1), np.int64)

    def _frozen_positions(self, frozen: FrozenItems, trials: Trials, old: Mask, popular: FloatArray) -> FloatArray:
        """The positions (S,) by frozen vectors of users whose past are the entries ``old`` (S, H)."""
        item, history = trials.item, trials.history
        confidence = confidence_now(trials.strength, trials.time, old, self._policy)
        users = np.zeros_like(trials.vector)
        past = old.any(axis=1)
        for user in np.flatnonzero(past).tolist():
            mine = old[user]
            users[user] = solve_cholesky(frozen, history[user, mine], confidence[user, mine], self._policy.rhs)
        out = np.where(past, np.inf, popular)
        there = past & frozen.knows(item)
        targets = np.vecdot(users[there], frozen.vectors[item[there]])
        out[there] = _positions(users[there], targets, frozen.vectors, item[there], history[there], frozen.known)
        return out

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
    users: Float32Array,
    scores: Float32Array,
    vectors: Float32Array,
    item: IntArray,
    history: npt.NDArray[np.int32],
    known: Mask | None = None,
) -> FloatArray:
    """The position of each user's item (S,), of a given score (S,), among the items (m, k) outside the history.

    known: (m,) which items there are; None for all.
    """
    out = np.zeros(len(users))
    for start in range(0, len(vectors), _BLOCK) if len(users) else ():
        block = users @ vectors[start : start + _BLOCK].T
        inside = (history >= start) & (history < start + block.shape[1])
        row, slot = np.nonzero(inside)
        block[row, history[row, slot] - start] = -np.inf
        if known is not None:
            block[:, ~known[start : start + block.shape[1]]] = -np.inf
        own = np.flatnonzero((item >= start) & (item < start + block.shape[1]))
        block[own, item[own] - start] = -np.inf
        out += np.count_nonzero(block > scores[:, None], axis=1)
        out += np.count_nonzero(block == scores[:, None], axis=1) / 2
    return out
