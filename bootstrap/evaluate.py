"""How well the next event is foretold: test, then learn, in time order, by the functions that the stream runs.

The model is fitted on the events before a cut in time. Then each later positive event is first foretold and then
folded into its user's history, and the user is solved again, as the stream would do it; items stand still. What takes
back or only hides is not foretold, but is done to the user all the same (`replay.py`). An event is
scored where its item is known to the model and new to its user: all known items that the user has not had are ranked,
and the event's item is found at a position (`metrics.py` says what positions come to).

Beside it: the same model without folding (frozen), and what is popular, counted up to each event; and each of them for
users with and without a history at the cut (known, new). An item without events before the cut is a new item: where
its vector is projected (`content.py`) it is ranked with the others, else it is a miss; it counts in new_items alone::

    new_items_recall    share of the first events of a user with a new item that were found among the first k
    known_item_events, known_user_events     share of the test events whose item, whose user the model knows
    suppressed_share, withdrawn_share        share of the places in lists of k of items that should not be there
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bootstrap.columns import POSITIVE, Columns
from bootstrap.metrics import ranked, shown
from bootstrap.replay import Past as Pasts
from bootstrap.replay import acts_of
from bootstrap.serve import solver_of
from bootstrap.users import vectors_of
from streamer.factors.serving import Past, serve
from streamer.factors.weigh import add_events, confidence_now, inside_window

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bootstrap.matrix import Matrix
    from bootstrap.model import Users
    from bootstrap.users import Solved
    from schemas.records import Policy
    from streamer.factors.history import Histories
    from streamer.factors.serving import Priors
    from streamer.factors.space import ItemSpace

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

# Positive events replayed at most, the first after the cut: more of them cost minutes and change the third digit.
LIMIT = 30_000
_SCORES = 1 << 22  # scores held at once


@dataclass(frozen=True, slots=True)
class Trained:
    """A model fitted on the events before the cut; ``users`` numbers users as the columns do.

    The space holds the matrix's items in its order, the last ``projected`` of them without events; losses: of each
    round of the training; priors, and what the manifest says of them: None and nothing where long-term vectors are
    published as they are.
    """

    users: Users
    matrix: Matrix
    space: ItemSpace
    solved: Solved
    projected: int = 0
    losses: tuple[float, ...] = ()
    priors: Priors | None = None
    segments: Mapping[str, F32] = field(default_factory=dict)
    popularity_user: F32 | None = None


def split(columns: Columns, fraction: float) -> tuple[Index, Index]:
    """The events before and after the cut in time, each in time order; ties keep log order."""
    order = np.argsort(columns.at, kind="stable")
    cut = round(len(order) * fraction)
    return order[:cut], order[cut:]


@dataclass(frozen=True, slots=True)
class Foretold:
    """T test events in time order, and where each was found.

    event: (T,) numbers into the columns; user, item: (T,) the columns' numbers; at: (T,) ms.
    folded, frozen, popular: (T,) positions from 0, -1 where the event is not scored.
    lists: (T, k) the folded lists by the model's item numbers, -1 for none.
    known_user, trained_item: (T,) whether the events before the cut have the user, the item; known_item: (T,) whether
    the model has it; first: (T,) the user's first event with the item.
    events: (m,) how many events before the cut each item of the model has.
    """

    event: Index
    user: Index
    item: Index
    at: npt.NDArray[np.int64]
    folded: F64
    frozen: F64
    popular: F64
    lists: npt.NDArray[np.int32]
    known_user: npt.NDArray[np.bool_]
    known_item: npt.NDArray[np.bool_]
    trained_item: npt.NDArray[np.bool_]
    first: npt.NDArray[np.bool_]
    events: npt.NDArray[np.int64]

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """(T,) the events that count: of a trained item that is new to its user."""
        return (self.folded >= 0) & self.trained_item

    def positions(self) -> dict[str, F64]:
        """The positions (T,) of each contender, by the prefix of its metrics."""
        return {"": self.folded, "frozen_": self.frozen, "popularity_": self.popular}


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
    return summary(foretell(columns, before, after, trained, policy, k=k, tolerance=tolerance, on_events=on_events), k)


def foretell(
    columns: Columns,
    before: Index,
    after: Index,
    trained: Trained,
    policy: Policy,
    *,
    k: int,
    tolerance: float,
    on_events: Callable[[int], None] = lambda done: None,
) -> Foretold:
    """Test, then learn, on the positive events of ``after``, at most `LIMIT` of them."""
    acts = acts_of(columns, after, LIMIT)
    tests = acts[columns.kind[acts] == POSITIVE]
    replay = _Replay(columns, before, acts, trained, policy, tolerance, k)
    folded, frozen = replay.ranks(on_events)
    had = before[columns.kind[before] == POSITIVE]
    user, item = columns.user[tests], columns.item[tests]
    pair = item.astype(np.int64) * len(columns.user_ids) + user
    first = np.zeros(len(tests), bool)
    first[np.unique(pair, return_index=True)[1]] = True
    return Foretold(
        event=tests,
        user=user,
        item=item,
        at=columns.at[tests],
        folded=folded,
        frozen=frozen,
        popular=replay.popular_ranks(),
        lists=replay.lists,
        known_user=np.isin(user, columns.user[had]),
        known_item=replay.known_item,
        trained_item=np.isin(item, columns.item[had]),
        first=first,
        events=replay.events_before(),
    )


def summary(foretold: Foretold, k: int) -> dict[str, float]:
    """Every metric of a replay."""
    scored, known, user = foretold.scored, foretold.known_user, foretold.user
    metrics = {"k": float(k), "test_events": float(len(user)), "scored_events": float(scored.sum())}
    new_item = foretold.first & ~foretold.trained_item
    groups = {"": scored, "known_users_": scored & known, "new_users_": scored & ~known}
    for name, position in foretold.positions().items():
        for whose, part in groups.items():
            found = ranked(position[part], user[part], k)
            metrics |= {f"{name}{whose}{metric}": value for metric, value in found.items()}
        missed = np.where(position < 0, np.inf, position)
        metrics[f"{name}new_items_recall"] = ranked(missed[new_item], user[new_item], k)["recall"]
    metrics["new_items_events"] = float(new_item.sum())
    metrics["known_item_events"] = float(foretold.known_item.mean()) if len(user) else 0.0
    metrics["known_user_events"] = float(known.mean()) if len(user) else 0.0
    return metrics | shown(foretold.lists, foretold.events)


class _Replay:
    """The events after the cut, a round for each user's first, second, third ...; T of them are positive: the tests."""

    def __init__(
        self,
        columns: Columns,
        before: Index,
        acts: Index,
        trained: Trained,
        policy: Policy,
        tolerance: float,
        k: int,
    ) -> None:
        self._columns, self._acts, self._trained = columns, acts, trained
        self._policy, self._tolerance = policy, tolerance
        self._pasts = Pasts(columns, acts, trained.users, policy.history_capacity)
        self._users = self._pasts.users
        positive = columns.kind[acts] == POSITIVE
        # Which test each act is.
        self._test = np.where(positive, np.cumsum(positive) - 1, -1)
        tests = acts[positive]
        self.lists = np.full((len(tests), min(k, len(trained.matrix.item_ids))), -1, np.int32)
        self._known = item_numbers(columns, trained.matrix)
        self._row = self._pasts.row[positive]
        self._item: npt.NDArray[np.int32] = self._known[columns.item[tests]]
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
        folded, frozen = np.full(len(self._item), -1.0), np.full(len(self._item), -1.0)
        seen = self._seen()
        events_of, segment = self._trained.users.events[self._users].copy(), self._segments()
        start = solved.vectors[self._users]
        if self._trained.priors is not None:
            start = self._solve(np.arange(len(start)), events_of, segment)
        now, done = start.copy(), 0
        for acts in self._pasts.rounds():
            tests = self._test[acts]
            tests = tests[tests >= 0]
            row, item = self._row[tests], self._item[tests]
            fresh = [number >= 0 and number not in seen[at] for at, number in zip(row, item, strict=True)]
            chosen = np.flatnonzero(fresh)
            blocks = -(-len(chosen) * len(self._trained.matrix.item_ids) // _SCORES)
            for part in np.array_split(chosen, max(1, blocks)):
                had = [seen[at] for at in row[part].tolist()]
                folded[tests[part]] = self._positions(now[row[part]], item[part], had, noted=tests[part])
                frozen[tests[part]] = self._positions(start[row[part]], item[part], had)
            self._pasts.learn(acts, self._policy.half_life_ms, add_events)
            events_of[row] += 1
            named, actor = columns.segment[self._acts[acts]], self._pasts.row[acts]
            segment[actor] = np.where(named > 0, named, segment[actor])
            now[actor] = self._solve(actor, events_of[actor], segment[actor])
            for at in chosen.tolist():
                seen[row[at]].add(int(item[at]))
            on_events(done := done + len(tests))
        return folded, frozen

    def _segments(self) -> npt.NDArray[np.uint64]:
        """The test users' segments at the cut."""
        segment = self._trained.users.segment
        return np.zeros(len(self._users), np.uint64) if segment is None else segment[self._users].copy()

    def _solve(self, row: Index, events: npt.NDArray[np.int64], segment: npt.NDArray[np.uint64]) -> F32:
        """What is published of users (rows of the histories) with so many events and these segments, both (B,)."""
        histories: Histories = self._pasts.histories
        width = max(1, int(histories.count[row].max(initial=1)))
        items, strength, time = (
            histories.items[row, :width],
            histories.strength[row, :width],
            histories.time[row, :width],
        )
        policy, trained = self._policy, self._trained
        inside = inside_window(time, self._pasts.newest[row, None], policy)
        index = np.where(inside, trained.space.lookup(items), np.int32(-1))
        used = np.arange(width) < histories.count[row][:, None]
        confidence = confidence_now(strength, time, used, policy)
        vectors = vectors_of(trained.space, index, confidence, policy, self._tolerance, trained.solved.average)
        if trained.priors is None:
            return vectors
        past, solve = Past(items, time, used, index, confidence), solver_of(trained.space, policy, self._tolerance)
        return serve(past, vectors, events, segment, policy, trained.priors, solve).vectors

    @property
    def known_item(self) -> npt.NDArray[np.bool_]:
        """(T,) whether the model has the event's item."""
        return self._item >= 0

    def events_before(self) -> npt.NDArray[np.int64]:
        """(m,) how many events before the cut each item of the model has."""
        item = self._known[self._columns.item[self._before]]
        return np.bincount(item[item >= 0], minlength=len(self._trained.matrix.item_ids)).astype(np.int64)

    def _positions(
        self, vectors: F32, item: npt.NDArray[np.int32], had: list[set[int]], *, noted: Index | None = None
    ) -> F64:
        """The position of each item (B,) for each vector (B, k) among the items not had; equal scores share theirs.

        ``noted``: (B,) the test events whose lists are kept.
        """
        scores = vectors @ self._trained.space.vectors.T
        target = scores[np.arange(len(item)), item][:, None]
        rows = np.repeat(np.arange(len(item)), [len(items) for items in had])
        scores[rows, np.fromiter((number for items in had for number in items), np.intp, len(rows))] = -np.inf
        if noted is not None and len(item):
            many = self.lists.shape[1]
            lists = np.argpartition(-scores, many - 1, axis=1)[:, :many]
            offered = np.isfinite(np.take_along_axis(scores, lists, axis=1))
            self.lists[noted] = np.where(offered, lists, -1)
        better, equal = (scores > target).sum(axis=1), (scores == target).sum(axis=1)
        return np.asarray(better + (equal - 1) / 2, np.float64)

    def popular_ranks(self) -> F64:
        """The position of each test event's item by the number of events up to then, in time order."""
        counts = self.events_before()
        ranks, seen = np.full(len(self._item), -1.0), self._seen()
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


def item_numbers(columns: Columns, matrix: Matrix) -> npt.NDArray[np.int32]:
    """The matrix's number of each of the columns' items, -1 for those that it lacks."""
    if not len(matrix.hashes):
        return np.full(len(columns.hashes), -1, np.int32)
    order = np.argsort(matrix.hashes, kind="stable")
    place = order[np.minimum(np.searchsorted(matrix.hashes[order], columns.hashes), len(order) - 1)]
    return np.where(matrix.hashes[place] == columns.hashes, place, -1).astype(np.int32)
