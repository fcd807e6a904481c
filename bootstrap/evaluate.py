"""How well the next event is foretold: test, then learn, in time order, by the functions that the stream runs.

The model is fitted on the events before a cut in time. Then each later positive event is first foretold and then
folded into its user's history, and the user is solved again, as the stream would do it; items stand still. An event is
scored where its item is known to the model and new to its user: all known items that the user has not had are ranked,
and the event's item is found at position p, from 0::

    Recall@k    share of p < k                          NDCG@k   mean of 1/log2(p + 2) over these, 0 for the others
    MAP@k       mean of 1/(p + 1) likewise (one relevant item an event: the mean reciprocal rank)
    hit rate    share of users with some p < k

Beside it: the same model without folding (frozen), and what is popular, counted up to each event; and each of them for
users with and without a history at the cut (known, new). What is shown at all, of the folded lists of k::

    coverage    share of the known items in some list      novelty    mean of -log2 of an item's share of all events
    top_share   share of the places that the most popular hundredth of the items takes
    known_item_events, known_user_events     share of the test events whose item, whose user the model knows
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bootstrap.columns import POSITIVE, Columns
from bootstrap.serve import solver_of
from bootstrap.users import vectors_of
from streamer.factors.history import Histories, fold_batch
from streamer.factors.serving import Past, serve
from streamer.factors.weigh import confidence_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bootstrap.matrix import Matrix
    from bootstrap.model import Users
    from bootstrap.users import Solved
    from schemas.records import Policy
    from streamer.factors.serving import Priors
    from streamer.factors.space import ItemSpace

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

# Events replayed at most, the first after the cut: more of them cost minutes and change the third digit.
LIMIT = 30_000
_SCORES = 1 << 22  # scores held at once


@dataclass(frozen=True, slots=True)
class Trained:
    """A model fitted on the events before the cut; ``users`` numbers users as the columns do.

    priors, and what the manifest says of them: None and nothing where long-term vectors are published as they are.
    """

    users: Users
    matrix: Matrix
    space: ItemSpace
    solved: Solved
    priors: Priors | None = None
    segments: Mapping[str, F32] = field(default_factory=dict)
    popularity_user: F32 | None = None


def split(columns: Columns, fraction: float) -> tuple[Index, Index]:
    """The events before and after the cut in time, each in time order; ties keep log order."""
    order = np.argsort(columns.at, kind="stable")
    cut = round(len(order) * fraction)
    return order[:cut], order[cut:]


def evaluate(
    columns: Columns,
    before: Index,
    after: Index,
    trained: Trained,
    policy: Policy,
    *,
    k: int,
    tolerance: float,
    on_events: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """The metrics of the module's docstring, from the two sides of `split`."""
    tests = after[columns.kind[after] == POSITIVE][:LIMIT]
    replay = _Replay(columns, before, tests, trained, policy, tolerance, k)
    folded, frozen = replay.ranks(on_events)
    scored = folded >= 0
    user = columns.user[tests]
    known_user = np.isin(user, columns.user[before[columns.kind[before] == POSITIVE]])
    metrics = {"k": float(k), "test_events": float(len(tests)), "scored_events": float(scored.sum())}
    groups = {"": scored, "known_users_": scored & known_user, "new_users_": scored & ~known_user}
    for name, rank in {"": folded, "frozen_": frozen, "popularity_": replay.popular_ranks()}.items():
        for whose, part in groups.items():
            found = _metrics(rank[part], user[part], k)
            metrics |= {f"{name}{whose}{metric}": value for metric, value in found.items()}
    metrics["known_item_events"] = replay.known_item_share()
    metrics["known_user_events"] = float(known_user.mean()) if len(tests) else 0.0
    return metrics | replay.shown()


def _metrics(rank: F64, user: Index, k: int) -> dict[str, float]:
    """What the positions (events,) of these users' (events,) events come to at k; 0 where nothing was scored."""
    found, count = rank < k, max(len(rank), 1)
    return {
        "recall": float(np.count_nonzero(found)) / count,
        "ndcg": float(np.sum(1 / np.log2(rank[found] + 2))) / count,
        "map": float(np.sum(1 / (rank[found] + 1))) / count,
        "hit_rate": len(np.unique(user[found])) / max(len(np.unique(user)), 1),
    }


class _Replay:
    """The test events, a round for each user's first, second, third ... event: users do not depend on each other."""

    def __init__(
        self,
        columns: Columns,
        before: Index,
        tests: Index,
        trained: Trained,
        policy: Policy,
        tolerance: float,
        k: int,
    ) -> None:
        self._columns, self._tests, self._trained = columns, tests, trained
        self._policy, self._tolerance, self._k = policy, tolerance, k
        self._places = np.zeros(len(trained.matrix.item_ids), np.int64)
        self._users, self._row = np.unique(columns.user[tests], return_inverse=True)
        self._known = _numbers(columns, trained.matrix)
        self._item = self._known[columns.item[tests]]
        self._before = before[columns.kind[before] == POSITIVE]

    def _seen(self) -> list[set[int]]:
        """The known items that each test user had before the cut."""
        seen: list[set[int]] = [set() for _ in self._users]
        user, item = self._columns.user[self._before], self._known[self._columns.item[self._before]]
        mine = np.isin(user, self._users) & (item >= 0)
        for row, number in zip(np.searchsorted(self._users, user[mine]).tolist(), item[mine].tolist(), strict=True):
            seen[row].add(number)
        return seen

    def ranks(self, on_events: Callable[[int], None]) -> tuple[F64, F64]:
        """Where each test event was found, (T,), by the folded and by the frozen vectors; -1 where not scored."""
        columns, solved = self._columns, self._trained.solved
        folded, frozen = np.full(len(self._tests), -1.0), np.full(len(self._tests), -1.0)
        histories, seen = self._histories(), self._seen()
        events_of, segment = self._trained.users.events[self._users].copy(), self._segments()
        start = solved.vectors[self._users]
        if self._trained.priors is not None:
            start = self._solve(histories, np.arange(len(start)), events_of, segment)
        now, done = start.copy(), 0
        for events in self._rounds():
            row, item = self._row[events], self._item[events]
            fresh = [number >= 0 and number not in seen[at] for at, number in zip(row, item, strict=True)]
            chosen = np.flatnonzero(fresh)
            blocks = -(-len(chosen) * len(self._trained.matrix.item_ids) // _SCORES)
            for part in np.array_split(chosen, max(1, blocks)):
                had = [seen[at] for at in row[part].tolist()]
                folded[events[part]] = self._positions(now[row[part]], item[part], had, noted=True)
                frozen[events[part]] = self._positions(start[row[part]], item[part], had)
            test = self._tests[events]
            fold_batch(
                histories.items,
                histories.strength,
                histories.time,
                histories.count,
                columns.hashes[columns.item[test]],
                columns.weight[test],
                columns.at[test],
                self._policy.half_life_ms,
                rows=row,
            )
            events_of[row] += 1
            named = columns.segment[test]
            segment[row] = np.where(named > 0, named, segment[row])
            now[row] = self._solve(histories, row, events_of[row], segment[row])
            for at in chosen.tolist():
                seen[row[at]].add(int(item[at]))
            on_events(done := done + len(events))
        return folded, frozen

    def _rounds(self) -> Iterator[Index]:
        order = np.argsort(self._row, kind="stable")
        total = np.bincount(self._row, minlength=len(self._users))
        rank = np.arange(len(order)) - np.repeat(np.cumsum(total) - total, total)
        order = order[np.argsort(rank, kind="stable")]
        yield from np.split(order, np.cumsum(np.bincount(rank))[:-1]) if len(order) else ()

    def _histories(self) -> Histories:
        """The test users' histories at the cut, with room to grow."""
        users, width = self._trained.users, self._policy.history_capacity
        start, lengths = users.history_start[self._users], np.diff(users.history_start)[self._users]
        used = np.arange(width) < lengths[:, None]
        at = (start[:, None] + np.arange(width))[used]
        out = Histories(
            np.zeros(used.shape, np.uint64), np.zeros(used.shape, np.float32), np.zeros(used.shape, np.int64), lengths
        )
        out.items[used], out.strength[used], out.time[used] = users.item[at], users.strength[at], users.time[at]
        return out

    def _segments(self) -> npt.NDArray[np.uint64]:
        """The test users' segments at the cut."""
        segment = self._trained.users.segment
        return np.zeros(len(self._users), np.uint64) if segment is None else segment[self._users].copy()

    def _solve(
        self, histories: Histories, row: Index, events: npt.NDArray[np.int64], segment: npt.NDArray[np.uint64]
    ) -> F32:
        """What is published of users (rows of the histories) with so many events and these segments, both (B,)."""
        width = max(1, int(histories.count[row].max(initial=1)))
        items, strength, time = (
            histories.items[row, :width],
            histories.strength[row, :width],
            histories.time[row, :width],
        )
        policy, trained = self._policy, self._trained
        index = trained.space.lookup(items)
        used = np.arange(width) < histories.count[row][:, None]
        confidence = confidence_now(strength, time, used, policy)
        vectors = vectors_of(trained.space, index, confidence, policy, self._tolerance, trained.solved.average)
        if trained.priors is None:
            return vectors
        past, solve = Past(items, time, used, index, confidence), solver_of(trained.space, policy, self._tolerance)
        return serve(past, vectors, events, segment, policy, trained.priors, solve).vectors

    def known_item_share(self) -> float:
        """The share of the test events whose item the model knows."""
        return float((self._item >= 0).mean()) if len(self._item) else 0.0

    def shown(self) -> dict[str, float]:
        """Coverage, novelty and concentration of the lists of k that `ranks` has looked at."""
        places, total = self._places, max(int(self._places.sum()), 1)
        item = self._known[self._columns.item[self._before]]
        events = np.bincount(item[item >= 0], minlength=len(places))
        share = np.maximum(events, 1) / max(int(events.sum()), 1)
        top = np.argsort(-events, kind="stable")[: max(len(places) // 100, 1)]
        return {
            "coverage": float(np.count_nonzero(places)) / max(len(places), 1),
            "novelty": float(np.sum(places * -np.log2(share))) / total,
            "top_share": float(places[top].sum()) / total,
        }

    def _positions(self, vectors: F32, item: npt.NDArray[np.int32], had: list[set[int]], *, noted: bool = False) -> F64:
        """The position of each item (B,) for each vector (B, k) among the items not had; equal scores share theirs.

        ``noted``: count the items of the lists.
        """
        scores = vectors @ self._trained.space.vectors.T
        target = scores[np.arange(len(item)), item][:, None]
        rows = np.repeat(np.arange(len(item)), [len(items) for items in had])
        scores[rows, np.fromiter((number for items in had for number in items), np.intp, len(rows))] = -np.inf
        if noted and len(item):
            many = min(self._k, scores.shape[1])
            lists = np.argpartition(-scores, many - 1, axis=1)[:, :many]
            offered = np.isfinite(np.take_along_axis(scores, lists, axis=1))
            np.add.at(self._places, lists[offered], 1)
        better, equal = (scores > target).sum(axis=1), (scores == target).sum(axis=1)
        return np.asarray(better + (equal - 1) / 2, np.float64)

    def popular_ranks(self) -> F64:
        """The position of each test event's item by the number of events up to then, in time order."""
        counts = np.zeros(len(self._trained.matrix.item_ids), np.int64)
        item = self._known[self._columns.item[self._before]]
        np.add.at(counts, item[item >= 0], 1)
        ranks, seen = np.full(len(self._tests), -1.0), self._seen()
        for event, (row, number) in enumerate(zip(self._row.tolist(), self._item.tolist(), strict=True)):
            if number < 0:
                continue
            if number not in seen[row]:
                mine, had = counts[number], counts[list(seen[row])]
                better = np.count_nonzero(counts > mine) - np.count_nonzero(had > mine)
                equal = np.count_nonzero(counts == mine) - np.count_nonzero(had == mine)
                ranks[event] = better + (equal - 1) / 2
                seen[row].add(number)
            counts[number] += 1
        return ranks


def _numbers(columns: Columns, matrix: Matrix) -> npt.NDArray[np.int32]:
    """The matrix's number of each of the columns' items, -1 for those that it lacks."""
    numbers = np.full(len(columns.item_ids), -1, np.int32)
    order = np.argsort(columns.hashes, kind="stable")
    numbers[order[np.searchsorted(columns.hashes[order], matrix.hashes)]] = np.arange(len(matrix.hashes))
    return numbers
