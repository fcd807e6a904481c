"""Test, then learn, with items that move: what the stream's item side adds to folding in users.

Events are taken one at a time in time order, in the order of the stream: the event is foretold with its user's last
vector and the items as they are now; it is folded into the history; the user is solved anew; the signal moves the
item, or feeds the reservoir that a new item is folded in from. All by the functions that the workers run. A return is
not foretold and moves no item; it takes its item out of the history.

Two questions are asked of each list::

    of the generation   events whose item the generation has, as `bootstrap.evaluate` scores them
    of all              every event whose item is new to its user; an item without a vector is a miss

The second is the one that new items are in; those that came in are candidates in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bootstrap.columns import POSITIVE, RETURNED, Columns
from bootstrap.evaluate import LIMIT
from bootstrap.matrix import unobserved_mean
from bootstrap.replay import acts_of, voids_of
from bootstrap.users import space_of
from schemas.layouts import ItemRow, signal_dtype
from streamer.factors.draw import NOTHING, draw
from streamer.factors.gram import gramian
from streamer.factors.guard import guard
from streamer.factors.history import DROPPED, fold_event
from streamer.factors.learner import ItemLearner
from streamer.factors.newcomer import side_of
from streamer.factors.solve import solve_cholesky
from streamer.factors.weigh import confidence_array, confidence_now, inside_window

if TYPE_CHECKING:
    from collections.abc import Callable

    from bootstrap.evaluate import Trained
    from schemas.records import Policy

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

_HAD = -1.0


@dataclass(slots=True)
class History:
    """One user's history as lists, as `streamer.factors.history.fold_event` takes it.

    voids: as `replay.voids_of`; newest: time of the user's newest event, ms.
    """

    items: list[int]
    strength: list[float]
    time: list[int]
    voids: dict[int, int]
    newest: int

    def take_back(self, item: int, at: int) -> None:
        """A return: what was done to the item up to then counts no more."""
        self.newest = max(self.newest, at)
        self.voids[item] = max(self.voids.get(item, 0), at)
        if item in self.items and self.time[slot := self.items.index(item)] <= at:
            del self.items[slot], self.strength[slot], self.time[slot]


@dataclass(frozen=True, slots=True)
class Foretold:
    """rank: (T,) where each event's item stood, from 0; infinite without a vector; -1 if its user had it before.

    generation: (T,) the generation has the item; entered: items folded in on the way.
    """

    rank: F64
    generation: npt.NDArray[np.bool_]
    entered: int

    def metrics(self, k: int) -> dict[str, float]:
        """Recall and NDCG at k, of the generation's items and of all."""
        out = {"entered": float(self.entered)}
        for name, part in (("", self.generation), ("all_", np.ones(len(self.rank), bool))):
            rank = self.rank[part & (self.rank != _HAD)]
            found, count = rank < k, max(len(rank), 1)
            out |= {
                f"{name}scored_events": float(len(rank)),
                f"{name}recall": float(np.count_nonzero(found)) / count,
                f"{name}ndcg": float(np.sum(1 / np.log2(rank[found] + 2))) / count,
            }
        return out


def tests_of(columns: Columns, after: Index) -> Index:
    """The events that are foretold, in time order."""
    tests: Index = after[columns.kind[after] == POSITIVE][:LIMIT]
    return tests


def foretell(
    columns: Columns,
    before: Index,
    after: Index,
    trained: Trained,
    policy: Policy,
    *,
    ridge_items: float = 0.0,
    batch: int = 1,
    newcomers_compete: bool = True,
    on_events: Callable[[int], None] = lambda done: None,
) -> Foretold:
    """Foretell and learn the events after the cut, as the policy moves items.

    Args:
        columns: all events.
        before: those before the cut, in time order.
        after: those after it.
        trained: fitted on those before.
        policy: its `sgd_*` and `new_item*` say how items move; `sgd_rate` 0 and `new_items_cap` 0 hold them still.
        ridge_items: the ridge of the item half-step; 0 for the policy's.
        batch: signals that the item side takes together, as its worker does; users see what moved after the batch.
        newcomers_compete: whether items that were folded in are ranked, too; without them each list has the items that
            `bootstrap.evaluate` ranks, and its figures can be compared.
        on_events: told how many are done.
    """
    tests = tests_of(columns, after)
    replay = _Replay(columns, before, trained, policy, ridge_items, batch)
    replay.newcomers_compete = newcomers_compete
    ranks: list[float] = []
    for event in acts_of(columns, after, LIMIT).tolist():
        if columns.kind[event] == RETURNED:
            replay.take_back(event)
        elif columns.kind[event] == POSITIVE:
            ranks.append(replay.test_then_learn(event))
            if len(ranks) % 100 == 0:
                on_events(len(ranks))
    rank = np.array(ranks)
    own = np.isin(columns.hashes[columns.item[tests]], trained.matrix.hashes)
    return Foretold(rank, own, replay.entered)


def popularity(columns: Columns, before: Index, after: Index, hashes: npt.NDArray[np.uint64]) -> Foretold:
    """The same by the number of events up to each one, new items among them. hashes: of the generation's items."""
    tests, counts = tests_of(columns, after), np.zeros(len(columns.item_ids))
    earlier = before[columns.kind[before] == POSITIVE]
    np.add.at(counts, columns.item[earlier], 1)
    seen = _seen(columns, before)
    rank = np.empty(len(tests))
    for number, (user, item) in enumerate(zip(columns.user[tests].tolist(), columns.item[tests].tolist(), strict=True)):
        rank[number] = _position(np.where(counts > 0, counts, -np.inf), item, seen.setdefault(user, set()))
        seen[user].add(item)
        counts[item] += 1
    return Foretold(rank, np.isin(columns.hashes[columns.item[tests]], hashes), 0)


def _seen(columns: Columns, before: Index) -> dict[int, set[int]]:
    """The items that each user had before the cut, by the columns' numbers."""
    seen: dict[int, set[int]] = {}
    earlier = before[columns.kind[before] == POSITIVE]
    for user, item in zip(columns.user[earlier].tolist(), columns.item[earlier].tolist(), strict=True):
        seen.setdefault(user, set()).add(item)
    return seen


def _position(scores: F64, target: int, had: set[int]) -> float:
    """Where the target stands among what was not had, from 0; equal scores share their places."""
    if target in had:
        return _HAD
    mine = scores[target]
    if mine == -np.inf:
        return np.inf
    others = scores.copy()
    others[list(had)] = -np.inf
    return float(np.count_nonzero(others > mine) + (np.count_nonzero(others == mine) - 1) / 2)


class _Replay:
    """The state of both sides, an event at a time."""

    def __init__(
        self, columns: Columns, before: Index, trained: Trained, policy: Policy, ridge_items: float, batch: int
    ) -> None:
        self._columns, self._trained, self._policy = columns, trained, policy
        matrix, solved = trained.matrix, trained.solved
        self._space = space_of(matrix, trained.space.vectors, policy)
        self._place = np.full(len(columns.item_ids), -1, np.intp)
        self._place[_numbers(columns, matrix.hashes)] = np.arange(len(matrix.hashes))
        self._trained_items, self.newcomers_compete = self._place >= 0, True
        self._seen = _seen(columns, before)
        self._histories: dict[int, History] = {}
        self._vectors: dict[int, F32] = {}
        mean = max(float(matrix.popularity.mean()), 1e-30)
        self._popularity = matrix.popularity / mean
        have = np.diff(trained.users.history_start) > 0
        users = side_of(
            gramian(solved.vectors[have]),
            policy,
            ridge_items=ridge_items,
            users=int(np.count_nonzero(have)),
            mean=unobserved_mean(np.diff(matrix.by_item.indptr), policy.unobserved_power),
        )
        event_share = len(matrix.item_ids) / max(len(before), 1)
        self._learner = ItemLearner(policy, users, policy.new_items_cap, event_share=event_share)
        self._rows: dict[int, ItemRow] = {}
        self._batch, self._pending = batch, list[tuple[int, npt.NDArray[Any]]]()
        self._pair = policy.sgd_objective == "bpr"
        self._moving = policy.sgd_rate > 0 or policy.new_items_cap > 0
        self.entered = 0

    def test_then_learn(self, event: int) -> float:
        """The event's rank; both sides have learnt it then."""
        columns = self._columns
        user, item = int(columns.user[event]), int(columns.item[event])
        seen = self._seen.setdefault(user, set())
        rank = _HAD
        if item not in seen:
            scores = np.full(len(self._place), -np.inf)
            known = np.flatnonzero(self._place >= 0 if self.newcomers_compete else self._trained_items)
            scores[known] = (self._space.vectors @ self._vector(user))[self._place[known]]
            rank = _position(scores, item, seen)
        seen.add(item)
        vector, confidence = self._learn_user(user, event)
        # Nobody learns from what was returned before it came.
        if self._moving and columns.at[event] > self._history(user).voids.get(
            int(columns.hashes[columns.item[event]]), -1
        ):
            self._pending.append((item, self._signal(user, event, vector, confidence)))
            if len(self._pending) >= self._batch:
                self._learn_items()
        return rank

    def take_back(self, event: int) -> None:
        """A return: the user is solved without what it takes back."""
        columns = self._columns
        user = int(columns.user[event])
        self._history(user).take_back(int(columns.hashes[columns.item[event]]), int(columns.at[event]))
        self._solve(user)

    def _vector(self, user: int) -> F32:
        """The user's last vector: what was published of them."""
        mine = self._vectors.get(user)
        if mine is None:
            mine = self._trained.solved.vectors[user]
        return mine

    def _history(self, user: int) -> History:
        if user not in self._histories:
            users = self._trained.users
            part = slice(int(users.history_start[user]), int(users.history_start[user + 1]))
            columns = (users.item[part].tolist(), users.strength[part].tolist(), users.time[part].tolist())
            self._histories[user] = History(*columns, voids_of(users, user), int(users.event_time[user]))
        return self._histories[user]

    def _learn_user(self, user: int, event: int) -> tuple[F32, float]:
        """Fold the event in and solve; returns the user's vector, and the confidence of the event's item."""
        columns, policy, history = self._columns, self._policy, self._history(user)
        weight, at = float(columns.weight[event]), int(columns.at[event])
        item, slot = int(columns.hashes[columns.item[event]]), DROPPED
        history.newest = max(history.newest, at)
        if at > history.voids.get(item, -1):
            slot = fold_event(
                history.items,
                history.strength,
                history.time,
                item,
                weight,
                at,
                half_life_ms=policy.half_life_ms,
                capacity=policy.history_capacity,
            )
        confidence = self._solve(user)
        alone = float(confidence_array(np.array([weight]), policy)[0])
        return self._vector(user), alone if slot == DROPPED else float(confidence[slot])

    def _solve(self, user: int) -> F64:
        """Solve the user anew; returns the confidence of each entry of the history."""
        history, policy = self._history(user), self._policy
        strength, time = np.array(history.strength, np.float32), np.array(history.time, np.int64)
        confidence = confidence_now(strength, time, np.ones(len(time), bool), policy)
        inside = inside_window(time, history.newest, policy)
        index = np.where(inside, self._space.lookup(np.array(history.items, np.uint64)), np.int32(-1))
        if (index >= 0).any():
            solved = solve_cholesky(self._space, index, confidence, policy.rhs)
            self._vectors[user] = guard(solved[None], policy.norm_cap).vectors[0]
        else:
            self._vectors[user] = self._trained.solved.average
        return confidence

    def _signal(self, user: int, event: int, vector: F32, confidence: float) -> npt.NDArray[Any]:
        """The signal for the event's item; where it makes a pair, the drawn item's waits already."""
        out = np.zeros(1, signal_dtype(len(vector), pair=self._pair))
        out["confidence"], out["event_time"], out["user"] = confidence, self._columns.at[event], user + 1
        out["vector"] = vector
        item = int(self._columns.item[event])
        if self._pair:
            out["sign"] = 1.0
            other = self._drawn(user, event, item)
            if other >= 0:
                x, space = vector.astype(np.float64), self._space.vectors
                out["other"] = np.add.reduce(x * space[other])
                drawn = out.copy()
                drawn["sign"], drawn["other"] = -1.0, np.add.reduce(x * space[self._place[item]])
                self._pending.append((_number(self._place, other), drawn))
        return out

    def _drawn(self, user: int, event: int, item: int) -> int:
        """The index of the item that makes a pair with this event's, -1 where there is none."""
        if self._place[item] < 0:
            return -1
        had = np.array([[*self._history(user).items, int(self._columns.hashes[item])]], np.uint64)
        found = int(draw(self._columns.request[event : event + 1], self._trained.matrix.hashes, had)[0])
        return -1 if found == NOTHING else found

    def _learn_items(self) -> None:
        """Take the signals that wait; what moved is put into the space, as a worker's replica does."""
        number: dict[int, int] = {}
        row_of = [number.setdefault(item, len(number)) for item, _ in self._pending]
        signals = np.concatenate([signal for _, signal in self._pending])
        self._pending.clear()
        items = list(number)
        for item in items:
            if item not in self._rows:
                self._rows[item] = self._row(item)
        rows = [self._rows[item] for item in items]
        done = self._learner.learn(rows, np.array(row_of, np.intp), signals, [0] * len(signals), self.entered)
        self.entered = done.folded
        moved = [items[at] for at in done.moved.tolist()]
        if not moved:
            return
        for item in moved:
            if self._place[item] < 0:
                hashes = self._columns.hashes[item : item + 1]
                self._place[item] = int(self._space.add([self._columns.item_ids[item]], hashes)[0])
        vectors = np.stack([self._rows[item].vector for item in moved])
        self._space.put(self._place[moved].astype(np.int32), vectors)

    def _row(self, item: int) -> ItemRow:
        place, dimension = int(self._place[item]), self._space.dimension
        vector = self._space.vectors[place].copy() if place >= 0 else np.zeros(dimension, np.float32)
        row = ItemRow(0, 1, 0, 0, 0, vector, known=place >= 0)
        if place >= 0:
            self._learner.root(row, float(self._popularity[place]))
        return row


def _number(place: Index, index: int) -> int:
    """The columns' number of the item at an index of the space."""
    return int(np.flatnonzero(place == index)[0])


def _numbers(columns: Columns, hashes: npt.NDArray[np.uint64]) -> Index:
    """The columns' number of each of these hashes."""
    order = np.argsort(columns.hashes, kind="stable")
    return np.asarray(order[np.searchsorted(columns.hashes[order], hashes)], np.intp)
