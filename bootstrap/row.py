"""One user's history and suppression set, an event at a time in log order: what the stream's row goes through.

The slow twin of `bootstrap.fold`, for users whose row depends on the order of what happened: an entry that was evicted
or returned is gone with all that was added to it (`streamer.steps.fold`, `streamer.steps.suppress`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamer.factors.explicit import replace_ratings
from streamer.factors.weigh import add_event, decay, to_float32

if TYPE_CHECKING:
    from schemas.records import Policy


@dataclass(slots=True)
class Suppressed:
    """Until when (ms) an item is suppressed, up to when its events are void, and its newest positive one."""

    until: int
    voided: int
    positive: int


class Entry(NamedTuple):
    """One item of the history; slot: its place among the others, by order and not by number."""

    slot: int
    strength: float
    time: int


@dataclass(slots=True)
class Row:
    """entries and suppressed: by item hash."""

    entries: dict[int, Entry] = field(default_factory=dict)
    suppressed: dict[int, Suppressed] = field(default_factory=dict)
    _slots: int = 0
    # (time, item) of every entry, and of what they were once: a heap that is tidied where it is looked at.
    _oldest: list[tuple[int, int]] = field(default_factory=list)

    def history(self) -> tuple[list[int], list[float], list[int]]:
        """Item hashes, strengths and times (ms), in the order of the slots."""
        ordered = sorted(self.entries.items(), key=lambda one: one[1].slot)
        return (
            [item for item, _ in ordered],
            [entry.strength for _, entry in ordered],
            [entry.time for _, entry in ordered],
        )

    def like(self, item: int, weight: float, at: int, policy: Policy) -> None:
        """A positive event; a return that is not older has voided it."""
        old = self.suppressed.get(item)
        if old is not None:
            old.positive = max(old.positive, at)
            if at <= old.voided:
                return
        entry = self.entries.get(item)
        if entry is not None:
            merged = _rated if policy.feedback == "explicit" else add_event
            self._put(item, Entry(entry.slot, *merged(entry.strength, entry.time, weight, at, policy.half_life_ms)))
        elif len(self.entries) < policy.history_capacity:
            self._slots += 1
            self._put(item, Entry(self._slots, to_float32(weight), at))
        elif (smallest := self._smallest()) <= (at, item):
            slot = self.entries.pop(smallest[1]).slot
            self._put(item, Entry(slot, to_float32(weight), at))

    def suppress(self, item: int, at: int, *, returned: bool, capacity: int) -> None:
        """A hide, a dislike or a return; beyond ``capacity`` items the one suppressed longest ago is forgotten."""
        entry = self.entries.get(item)
        one = self.suppressed.setdefault(item, Suppressed(0, 0, 0 if entry is None else entry.time))
        one.until = max(one.until, at)
        one.voided = max(one.voided, at if returned else 0)
        if len(self.suppressed) > capacity:
            del self.suppressed[min(self.suppressed, key=lambda known: (self.suppressed[known].until, known))]
        # An entry newer than the return keeps the strength of its older events too: it is one number by then.
        if returned and entry is not None and entry.time <= at:
            del self.entries[item]

    def strength_at(self, item: int, at: int, half_life_ms: int) -> float:
        """The strength of an item as of a time (ms), 0 without an entry."""
        entry = self.entries.get(item)
        return 0.0 if entry is None else entry.strength * decay(max(at - entry.time, 0), half_life_ms)

    def _put(self, item: int, entry: Entry) -> None:
        self.entries[item] = entry
        heappush(self._oldest, (entry.time, item))

    def _smallest(self) -> tuple[int, int]:
        """The smallest (time, item) of the entries; there is one."""
        while True:
            time, item = self._oldest[0]
            entry = self.entries.get(item)
            if entry is not None and entry.time == time:
                return time, item
            heappop(self._oldest)


def _rated(strength: float, time: int, rating: float, at: int, _half_life_ms: int) -> tuple[float, int]:
    """`replace_ratings` of one entry."""
    old, now = np.array([strength], np.float32), np.array([time])
    new, newer = replace_ratings(old, now, np.array([rating]), np.array([at]), 0)
    return float(new[0]), int(newer[0])
