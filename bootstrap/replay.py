"""What happens to users after the cut, in time order: the histories of those whose events are foretold, as they go on.

    positive event   folded into the history, unless a return of the same item is not older
    return           takes the item's entry out of the history, unless the entry is newer
    hide, dislike    change no history

So does the stream (`streamer.steps.suppress`); the users do not depend on each other, and are taken a round of events
at a time: each user's first, second, third ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bootstrap.columns import POSITIVE, RETURNED, Columns
from streamer.factors.history import Histories, fold_batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bootstrap.model import Users
    from streamer.factors.history import Merge

Index = npt.NDArray[np.intp]


def acts_of(columns: Columns, after: Index, limit: int) -> Index:
    """The events of ``after``, in time order, up to the last of ``limit`` positive ones."""
    positive = np.flatnonzero(columns.kind[after] == POSITIVE)
    return after if len(positive) <= limit else after[: positive[limit - 1] + 1]


def voids_of(users: Users, number: int) -> dict[int, int]:
    """Up to when (ms) returns have voided what the user of this number did, by item hash."""
    return {one.item: one.voided for one in users.suppressed.get(number, ()) if one.voided}


class Past:
    """The histories at the cut of the users who act, with room to grow, and what their acts do to them.

    users: (U,) the columns' numbers; row: (A,) the row of each act's user; histories: U rows; newest: (U,) time of each
    user's newest event, ms, which the window counts from.
    """

    def __init__(self, columns: Columns, acts: Index, users: Users, capacity: int) -> None:
        self._columns, self._acts = columns, acts
        self.users, self.row = np.unique(columns.user[acts], return_inverse=True)
        start, lengths = users.history_start[self.users], np.diff(users.history_start)[self.users]
        used = np.arange(capacity) < lengths[:, None]
        at = (start[:, None] + np.arange(capacity))[used]
        self.histories = Histories(
            np.zeros(used.shape, np.uint64), np.zeros(used.shape, np.float32), np.zeros(used.shape, np.int64), lengths
        )
        self.histories.items[used], self.histories.strength[used] = users.item[at], users.strength[at]
        self.histories.time[used] = users.time[at]
        self.newest = users.event_time[self.users].copy()
        self._voids = {row: voids for row, user in enumerate(self.users.tolist()) if (voids := voids_of(users, user))}

    def rounds(self) -> Iterator[Index]:
        """Positions in the acts: the r-th act of each user who has so many."""
        order = np.argsort(self.row, kind="stable")
        total = np.bincount(self.row, minlength=len(self.users))
        rank = np.arange(len(order)) - np.repeat(np.cumsum(total) - total, total)
        order = order[np.argsort(rank, kind="stable")]
        yield from np.split(order, np.cumsum(np.bincount(rank))[:-1]) if len(order) else ()

    def learn(self, chosen: Index, half_life_ms: int, merge: Merge) -> None:
        """Have these acts, one each of distinct users, done to the histories."""
        columns, now, act = self._columns, self.histories, self._acts[chosen]
        self.newest[self.row[chosen]] = np.maximum(self.newest[self.row[chosen]], columns.at[act])
        for at in np.flatnonzero(columns.kind[act] == RETURNED).tolist():
            self._take_back(
                int(self.row[chosen[at]]), int(columns.hashes[columns.item[act[at]]]), int(columns.at[act[at]])
            )
        weighed = columns.kind[act] == POSITIVE
        if self._voids:
            weighed &= ~np.array([self._is_void(at, event) for at, event in zip(chosen, act, strict=True)], bool)
        act = act[weighed]
        fold_batch(
            now.items,
            now.strength,
            now.time,
            now.count,
            columns.hashes[columns.item[act]],
            columns.weight[act],
            columns.at[act],
            half_life_ms,
            rows=self.row[chosen[weighed]],
            merge=merge,
        )

    def _take_back(self, row: int, item: int, at: int) -> None:
        voids = self._voids.setdefault(row, {})
        voids[item] = max(voids.get(item, 0), at)
        now, count = self.histories, int(self.histories.count[row])
        for slot in np.flatnonzero(now.items[row, :count] == np.uint64(item)).tolist():
            if now.time[row, slot] > at:
                return
            for column in (now.items, now.strength, now.time):
                column[row, slot:-1] = column[row, slot + 1 :]
                column[row, -1] = 0
            now.count[row] -= 1

    def _is_void(self, at: int, event: int) -> bool:
        voids, columns = self._voids.get(int(self.row[at]), {}), self._columns
        return int(columns.at[event]) <= voids.get(int(columns.hashes[columns.item[event]]), -1)
