"""Test, then learn: each event is foretold among all known items that its user has not had, then learnt.

    Recall@10   share of the scored events found at a position p < 10, from 0
    NDCG@10     mean of 1/log2(p + 2) over these, 0 for the others

An event is scored where its item was known at the cut; it is learnt in any case. Equal scores share their position.
Whoever has no vector for a user yet is given what is popular, counted up to that event: the same for all contenders.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from tests.bench.peers.events import F64, Split

K = 10


class Peer(Protocol):
    """A contender. Events come in the order of ``split.after``, each once."""

    def fit(self, split: Split) -> None:
        """Learn from the events before the cut."""

    def scores(self, user: int) -> F64 | None:
        """A score of each item, (at least known_items,), the best one highest; None where nothing is known."""

    def learn(self, user: int, item: int) -> None:
        """Take the next event; ``item`` may be unknown."""


@runtime_checkable
class Together(Protocol):
    """A contender that can take many events at once."""

    def learn_together(self, count: int) -> None:
        """Take the next events, as far as there are any."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Recall@10 and NDCG@10 of some of the scored events, and how many they are."""

    recall: float
    ndcg: float
    events: int


@dataclass(frozen=True, slots=True)
class Foretold:
    """rank: (T,) the position of each event's item, -1 where not scored; known: (T,) users known at the cut.

    learning_seconds: CPU time of this thread, so that a busy machine counts less.
    """

    rank: F64
    known: npt.NDArray[np.bool_]
    learning_seconds: float

    @property
    def rate(self) -> float:
        """Events a second, of learning alone."""
        return len(self.rank) / max(self.learning_seconds, 1e-9)

    def quality(self, which: str = "all") -> Quality:
        """Of ``all`` scored events, or of ``known`` or ``new`` users."""
        chosen = self.rank >= 0
        if which != "all":
            chosen &= self.known == (which == "known")
        rank = self.rank[chosen]
        found, count = rank[rank < K], max(len(rank), 1)
        return Quality(len(found) / count, float(np.sum(1 / np.log2(found + 2))) / count, len(rank))


def foretell(peer: Peer, split: Split) -> Foretold:
    """Replay the events after the cut one by one; the peer has been fitted on those before it."""
    seen = split.histories()
    counts = np.bincount(split.before.item, minlength=split.items).astype(np.float64)
    rank, spent = np.full(len(split.after), -1.0), 0.0
    for number, (user, item) in enumerate(zip(split.after.user.tolist(), split.after.item.tolist(), strict=True)):
        if item < split.known_items:
            scores = peer.scores(user)
            rank[number] = position(counts if scores is None else scores, item, seen[user], split.known_items)
        began = time.thread_time()
        peer.learn(user, item)
        spent += time.thread_time() - began
        seen[user].append(item)
        counts[item] += 1
    return Foretold(rank, split.after.user < split.known_users, spent)


def rate_together(peer: Together, split: Split, batch: int) -> float:
    """Events a second of CPU time, learning alone, in batches; the peer has been fitted and has learnt none of them."""
    began = time.thread_time()
    for _ in range(0, len(split.after), batch):
        peer.learn_together(batch)
    return len(split.after) / max(time.thread_time() - began, 1e-9)


def position(scores: F64, item: int, had: list[int], known_items: int) -> float:
    """Where ``item`` stands among the known items without those that the user had."""
    others = np.array(scores[:known_items], np.float64)
    mine = others[item]
    others[[one for one in had if one < known_items]] = -np.inf
    better, equal = np.count_nonzero(others > mine), np.count_nonzero(others == mine)
    return better + (equal - 1) / 2
