"""The events that all contenders are given: numbered by first appearance in time, so what is known comes first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ops.data import Dataset

Index = npt.NDArray[np.intp]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Events:
    """Positive events in log order, (E,) each; at: ms. No user has an item twice."""

    user: Index
    item: Index
    at: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.user)

    def part(self, which: slice) -> Events:
        """Some of the events; users and items keep their numbers."""
        return Events(self.user[which], self.item[which], self.at[which])

    def joined(self, later: Events) -> Events:
        """These events and then the later ones."""
        pairs = ((self.user, later.user), (self.item, later.item), (self.at, later.at))
        return Events(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True, slots=True)
class Split:
    """Events to fit on and events to foretell. Users below ``known_users`` and items below ``known_items`` are known.

    users, items: how many there are in both parts together.
    """

    before: Events
    after: Events
    known_users: int
    known_items: int
    users: int
    items: int

    def histories(self) -> list[list[int]]:
        """The items that each user has before the cut, in log order."""
        found: list[list[int]] = [[] for _ in range(self.users)]
        for user, item in zip(self.before.user.tolist(), self.before.item.tolist(), strict=True):
            found[user].append(item)
        return found


def numbered(data: Dataset) -> Events:
    """A data set's events; repeated pairs of user and item are left out, so that every event could be foretold."""
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    rows: dict[tuple[int, int], int] = {}
    for event in data.events:
        user = users.setdefault(event["user_id"], len(users))
        item = items.setdefault(event["item_id"], len(items))
        rows.setdefault((user, item), event["timestamp"])
    pairs = np.array(list(rows), np.intp)
    return Events(pairs[:, 0], pairs[:, 1], np.fromiter(rows.values(), np.int64))


def halves(events: Events) -> Split:
    """Cut in the middle."""
    cut = round(len(events) / 2)
    before, after = events.part(slice(0, cut)), events.part(slice(cut, None))
    return Split(
        before,
        after,
        known_users=int(before.user.max()) + 1,
        known_items=int(before.item.max()) + 1,
        users=int(events.user.max()) + 1,
        items=int(events.item.max()) + 1,
    )
