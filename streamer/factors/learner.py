"""What signals do to item rows: count, fold in or move; each signal once, in log order for each item.

    without a vector   the reservoir takes the user; with `new_item_users` of them, and under the cap, it is folded in
    folded in          the reservoir takes the user, and the item is solved anew, until `RESERVOIR` users are in it
    with a vector      SGD (`sgd`), its gain scaled by budget and balance

    balance      gain * max(p, 1)^-sgd_balance,   p = popularity of the training, relative to the mean
                                                      + events since / mean events of a trained item

A reservoir holds the newest vector of each user, and a fold-in is a function of the reservoir alone; so rows are the
same bytes however signals were cut into batches, and a batch solves an item once, after the last signal that it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from schemas.layouts import ItemRow, reservoir_dtype
from schemas.records import DAY_MS, RESERVOIR
from streamer.factors.explicit import apply_ratings
from streamer.factors.guard import guard
from streamer.factors.newcomer import UserSide, fold_in
from streamer.factors.sgd import Pairs, apply_signals

if TYPE_CHECKING:
    from schemas.records import Policy

FloatArray = NDArray[np.float64]
Index = NDArray[np.intp]


@dataclass(slots=True)
class Learned:
    """What became of a batch's signals.

    moved: (M,) items with a vector that a signal touched, ascending; norms: of the SGD steps taken; refused: steps that
    were not finite and were not taken; unknown: signals of items that still have no vector;
    folded: items folded in so far, of this partition; capped: signals of items that only the cap keeps out.
    """

    moved: Index
    norms: FloatArray
    refused: int
    unknown: int
    folded: int
    capped: int = 0


class ItemLearner:
    """See the module docstring. ``users`` None: no item is folded in; ``cap``: folded items a partition may have.

    ``mean``: of explicit feedback. Rows have their bias behind the vector then, and a signal's confidence is a rating.
    ``event_share``: what an event adds to its item's popularity, one over the mean events of a trained item.
    """

    def __init__(
        self, policy: Policy, users: UserSide | None, cap: int, *, mean: float | None = None, event_share: float = 0.0
    ) -> None:
        self._policy, self._users, self._cap, self._mean = policy, users, cap, mean
        self._event_share = event_share
        self._rooted = policy.sgd_pull > 0 or policy.sgd_balance > 0

    def root(self, item: ItemRow, popularity: float) -> None:
        """Have an item remember where it stands, where the policy asks for it."""
        if self._rooted:
            item.origin, item.popularity = item.vector.copy(), popularity

    def learn(
        self, items: Sequence[ItemRow], row_of: Index, signals: NDArray[Any], offsets: Sequence[int], folded: int
    ) -> Learned:
        """Apply signals (S,) of `signal_dtype` to the rows ``items``, which change.

        Args:
            items: the rows of the batch.
            row_of: (S,) the row that each signal is for.
            signals: (S,) in log order.
            offsets: (S,) their offsets.
            folded: items of this partition that were folded in before.
        """
        out = Learned(np.zeros(0, np.intp), np.zeros(0), 0, 0, folded)
        drawn = signals["sign"] < 0 if "sign" in (signals.dtype.names or ()) else np.zeros(len(signals), bool)
        _count(items, row_of, signals["event_time"], offsets, drawn)
        gain = np.ones(len(signals))
        steps = np.array([item.known and item.reservoir is None for item in items], bool)[row_of]
        self._feed(items, row_of, signals, drawn, steps, out)
        if self._policy.sgd_budget:
            for at in np.flatnonzero(steps).tolist():
                gain[at] = self._budget(items[row_of[at]], int(signals["event_time"][at]))
        chosen = np.flatnonzero(steps)
        if self._policy.sgd_balance:
            for at in chosen.tolist():
                gain[at] *= self._balance(items[row_of[at]], drawn=bool(drawn[at]))
        self._move(items, row_of, signals, gain, chosen, out)
        out.moved = np.flatnonzero([item.known for item in items])
        return out

    def _feed(
        self,
        items: Sequence[ItemRow],
        row_of: Index,
        signals: NDArray[Any],
        drawn: NDArray[np.bool_],
        steps: NDArray[np.bool_],
        out: Learned,
    ) -> None:
        """Take the signals of items that are solved from their users; those after the last fold-in become ``steps``."""
        solve: set[int] = set()
        for at in np.flatnonzero(~steps).tolist():
            row = int(row_of[at])
            item = items[row]
            if item.known and item.reservoir is None:
                steps[at] = True
            elif not drawn[at]:  # an item that is still solved from its users has nothing to learn from the others'
                self._take(item, signals[at])
                if self._is_due(item, out):
                    solve.add(row)
                if item.known and item.reservoir is not None and len(item.reservoir) >= RESERVOIR:
                    # Its next signals move it, so it is solved before them.
                    later = np.count_nonzero((row_of[at + 1 :] == row) & ~drawn[at + 1 :])
                    self._graduate(item, item.events - int(later))
                    solve.discard(row)
                out.unknown += not item.known
        for row in solve:
            self._solve(items[row])

    def _budget(self, item: ItemRow, time: int) -> float:
        """What is left of a step: all of it up to the day's budget, budget / n for the n-th signal of the day."""
        day = time // DAY_MS
        if day > item.day:
            item.day, item.count = day, 0
        item.count = min(item.count + 1, 2**32 - 1)
        return min(1.0, self._policy.sgd_budget / item.count)

    def _balance(self, item: ItemRow, *, drawn: bool) -> float:
        """What the item's popularity leaves of a step; counted on in float32, as the row keeps it."""
        if not drawn:
            item.popularity = float(np.float32(item.popularity + self._event_share))
        # Only ever less: a rare item's popularity is a small number that decays, and no measure of trust.
        return float(max(item.popularity, 1.0) ** -self._policy.sgd_balance)

    @staticmethod
    def _take(item: ItemRow, signal: NDArray[Any]) -> None:
        """Put the newest vector of a user into the reservoir, at most `RESERVOIR` of them, the newest ones."""
        vector, confidence = signal["vector"], signal["confidence"]
        if not (np.isfinite(vector).all() and np.isfinite(confidence)):
            return
        entry = np.zeros(1, reservoir_dtype(len(vector)))
        entry["user"], entry["confidence"], entry["vector"] = signal["user"], confidence, vector
        old = entry[:0] if item.reservoir is None else item.reservoir
        item.reservoir = np.concatenate([old[old["user"] != signal["user"]], entry])[-RESERVOIR:]

    def _is_due(self, item: ItemRow, out: Learned) -> bool:
        """Is this item to be solved from its reservoir? One that enters is counted."""
        if item.known:
            return True
        enough = item.reservoir is not None and len(item.reservoir) >= self._policy.new_item_users
        if self._users is None or not enough:
            return False
        if out.folded >= self._cap:
            out.capped += 1
            return False
        out.folded += 1
        item.known = item.folded = True
        return True

    def _graduate(self, item: ItemRow, events: int) -> None:
        """From its fold-in to SGD; ``events``: what it has had."""
        self._solve(item)
        item.reservoir = None
        self.root(item, float(np.float32(events * self._event_share)))

    def _solve(self, item: ItemRow) -> None:
        assert self._users is not None
        assert item.reservoir is not None
        solved = fold_in(self._users, item.reservoir["vector"], item.reservoir["confidence"])
        checked = guard(solved[None], self._policy.norm_cap)
        if checked.finite[0]:
            item.vector = checked.vectors[0]

    def _move(
        self,
        items: Sequence[ItemRow],
        row_of: Index,
        signals: NDArray[Any],
        gain: FloatArray,
        chosen: Index,
        out: Learned,
    ) -> None:
        """SGD on the items of the chosen signals."""
        if not len(chosen):
            return
        rows, place = np.unique(row_of[chosen], return_inverse=True)
        moving = [items[row] for row in rows.tolist()]
        old = np.stack([item.vector for item in moving])
        if self._mean is not None:
            new, norms = self._rate(old, place, signals[chosen], self._mean)
            self._taken(moving, new, norms, out)
            return
        signals, gain = signals[chosen], gain[chosen] * signals["confidence"][chosen].astype(np.float64)
        paired = self._policy.sgd_objective == "bpr"
        optimiser = np.array([item.optimiser for item in moving], np.float32)
        new, norms = apply_signals(
            old,
            place,
            np.ascontiguousarray(signals["vector"]),
            gain,
            self._policy,
            pairs=Pairs(signals["other"].astype(float), signals["sign"].astype(float)) if paired else None,
            origin=self._origins(moving),
            optimiser=optimiser,
        )
        self._taken(moving, new, norms, out)
        for item, spent in zip(moving, optimiser.tolist(), strict=True):
            item.optimiser = spent

    def _rate(
        self, old: NDArray[np.float32], place: Index, signals: NDArray[Any], mean: float
    ) -> tuple[NDArray[np.float32], FloatArray]:
        """SGD towards ratings."""
        users = np.ascontiguousarray(signals["vector"])
        return apply_ratings(old, place, users, signals["confidence"].astype(np.float64), mean, self._policy)

    @staticmethod
    def _taken(moving: Sequence[ItemRow], new: NDArray[np.float32], norms: FloatArray, out: Learned) -> None:
        taken = np.isfinite(norms)
        out.refused, out.norms = len(taken) - int(taken.sum()), norms[taken]
        for item, vector in zip(moving, new, strict=True):
            item.vector = vector

    def _origins(self, moving: Sequence[ItemRow]) -> NDArray[np.float32] | None:
        """What each item is pulled to; an item from before the policy asked for it stays where it is."""
        if not self._policy.sgd_pull:
            return None
        return np.stack([item.vector if item.origin is None else item.origin for item in moving])


def _count(
    items: Sequence[ItemRow],
    row_of: Index,
    times: NDArray[np.int64],
    offsets: Sequence[int],
    drawn: NDArray[np.bool_],
) -> None:
    """Events, newest event and place in the input of each item; a drawn item had no event."""
    events = np.bincount(row_of[~drawn], minlength=len(items)).tolist()
    newest, after = np.zeros(len(items), np.int64), np.zeros(len(items), np.int64)
    np.maximum.at(newest, row_of[~drawn], times[~drawn])
    after[row_of] = np.asarray(offsets, np.int64) + 1  # offsets rise, and of several the last one counts
    for item, count, time, end in zip(items, events, newest.tolist(), after.tolist(), strict=True):
        item.events += count
        item.event_time = max(item.event_time, time)
        item.source_next = end
