"""One user's history and suppression set, an event at a time in log order: what the stream's row goes through.

The slow twin of `bootstrap.fold`, for users whose row depends on the order of what happened: an entry that was evicted
or returned is gone with all that was added to it (`streamer.steps.fold`, `streamer.steps.suppress`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from streamer.factors.explicit import replace_ratings
from streamer.factors.history import fold_event
from streamer.factors.weigh import decay

if TYPE_CHECKING:
    from schemas.records import Policy


@dataclass(slots=True)
class Suppressed:
    """Until when (ms) an item is suppressed, up to when its events are void, and its newest positive one."""

    until: int
    voided: int
    positive: int


@dataclass(slots=True)
class Row:
    """items (hashes), strength and time (ms) of the history's slots; suppressed: by item hash."""

    items: list[int] = field(default_factory=list)
    strength: list[float] = field(default_factory=list)
    time: list[int] = field(default_factory=list)
    suppressed: dict[int, Suppressed] = field(default_factory=dict)

    def like(self, item: int, weight: float, at: int, policy: Policy) -> None:
        """A positive event; a return that is not older has voided it."""
        old = self.suppressed.get(item)
        if old is not None:
            old.positive = max(old.positive, at)
            if at <= old.voided:
                return
        if policy.feedback == "explicit" and item in self.items:
            self._rate(self.items.index(item), weight, at)
            return
        fold_event(
            self.items,
            self.strength,
            self.time,
            item,
            weight,
            at,
            half_life_ms=policy.half_life_ms,
            capacity=policy.history_capacity,
        )

    def suppress(self, item: int, at: int, *, returned: bool, capacity: int) -> None:
        """A hide, a dislike or a return; beyond ``capacity`` items the one suppressed longest ago is forgotten."""
        slot = self.items.index(item) if item in self.items else None
        one = self.suppressed.setdefault(item, Suppressed(0, 0, 0 if slot is None else self.time[slot]))
        one.until = max(one.until, at)
        one.voided = max(one.voided, at if returned else 0)
        if len(self.suppressed) > capacity:
            del self.suppressed[min(self.suppressed, key=lambda known: (self.suppressed[known].until, known))]
        # An entry newer than the return keeps the strength of its older events too: it is one number by then.
        if returned and slot is not None and self.time[slot] <= at:
            del self.items[slot], self.strength[slot], self.time[slot]

    def strength_at(self, item: int, at: int, half_life_ms: int) -> float:
        """The strength of an item as of a time (ms), 0 without an entry."""
        if item not in self.items:
            return 0.0
        slot = self.items.index(item)
        return self.strength[slot] * decay(max(at - self.time[slot], 0), half_life_ms)

    def _rate(self, slot: int, rating: float, at: int) -> None:
        old, time = np.array([self.strength[slot]], np.float32), np.array([self.time[slot]])
        new, newer = replace_ratings(old, time, np.array([rating]), np.array([at]), 0)
        self.strength[slot], self.time[slot] = float(new[0]), int(newer[0])
