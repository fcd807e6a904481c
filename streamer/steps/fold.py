"""Fold a batch's events into user rows, in log order for each user.

Events of distinct users are independent, so they are applied in rounds: round r takes the r-th event of each user and
works on all of them at once. The rows come out the same however events were cut into batches.

Decided here, since it takes the row: wrong_partition, duplicate, conflict, capped, outside_window, late, suppressed,
applied; the first that applies wins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from msgspec import structs

from schemas.layouts import Extras, UserRows
from schemas.outcomes import Outcome, Reason
from schemas.records import DAY_MS, POSITIVES, SUPPRESSING, Policy
from streamer.factors import packed
from streamer.factors.explicit import merge_of
from streamer.factors.history import fold_batch
from streamer.factors.weigh import strength_at
from streamer.steps.suppress import lifts, suppress

POSITIVE, SUPPRESS, RETURN = range(3)
KIND_OF = dict.fromkeys(POSITIVES, POSITIVE) | dict.fromkeys(SUPPRESSING, SUPPRESS) | {"return": RETURN}
"""What an event type does to a row, as the numbers in `Columns.kind`."""

IntArray = npt.NDArray[np.int64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Columns:
    """Good events as columns, all (E,) in log order; lists where numpy would not help.

    packed: (E, 12) int64, see `streamer.factors.packed`; the columns are views of it.
    segment: hashes of what the events' contexts name, 0 for none; None where the policy has no ``segment_key``.
    """

    packed: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]
    item: npt.NDArray[np.uint64]
    request: npt.NDArray[np.uint64]
    item_id: list[str]
    segment: npt.NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def position(self) -> Index:
        """The record of the batch that each event came as."""
        return self.packed[:, packed.POSITION]

    @property
    def user(self) -> Index:
        """The number of each event's user in the batch."""
        return self.packed[:, packed.USER]

    @property
    def index(self) -> IntArray:
        """The index of each event's item in the space, -1 for an unknown one."""
        return self.packed[:, packed.INDEX]

    @property
    def target(self) -> IntArray:
        """The partition of the item's owner."""
        return self.packed[:, packed.TARGET]

    @property
    def timestamp(self) -> IntArray:
        """When it happened, ms."""
        return self.packed[:, packed.TIMESTAMP]

    @property
    def received(self) -> IntArray:
        """The broker's timestamp, ms."""
        return self.packed[:, packed.RECEIVED]

    @property
    def fingerprint(self) -> IntArray:
        """What each event says, in 32 bits."""
        return self.packed[:, packed.FINGERPRINT]

    @property
    def offset(self) -> IntArray:
        """The record's offset."""
        return self.packed[:, packed.OFFSET]

    @property
    def kind(self) -> IntArray:
        """`POSITIVE`, `SUPPRESS` or `RETURN`."""
        return self.packed[:, packed.KIND]

    def of_users(self, users: Index, count: int) -> tuple[Columns, Index]:
        """The events of some of ``count`` users, numbered anew in the order given; and which events those are."""
        number = np.full(count, -1, np.intp)
        number[users] = np.arange(len(users))
        chosen = np.flatnonzero(number[self.user] >= 0)
        rows = self.packed[chosen]
        rows[:, packed.USER] = number[rows[:, packed.USER]]
        segment = None if self.segment is None else self.segment[chosen]
        return columns_of(rows, [self.item_id[event] for event in chosen.tolist()], segment), chosen


def columns_of(
    rows: npt.NDArray[np.int64], item_ids: list[str], segment: npt.NDArray[np.uint64] | None = None
) -> Columns:
    """The columns of packed events (E, 12)."""
    numbers, weight = rows.view(np.uint64), rows.view(np.float64)[:, packed.WEIGHT]
    return Columns(rows, weight, numbers[:, packed.ITEM], numbers[:, packed.REQUEST], item_ids, segment)


EMPTY = columns_of(np.zeros((0, packed.WIDTH), np.int64), [])
"""No event at all."""


@dataclass(slots=True)
class Events:
    """The good events of a batch as reading finds them: `packed.pack`'s bytes and the item's id of each.

    segments: of each too, but empty where the policy has no ``segment_key``.
    """

    rows: list[bytes] = field(default_factory=list)
    item_ids: list[str] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def columns(self) -> Columns:
        """The events as columns."""
        rows = np.frombuffer(b"".join(self.rows), np.int64).reshape(-1, packed.WIDTH)
        return columns_of(rows, self.item_ids, np.array(self.segments, np.uint64) if self.segments else None)


@dataclass(slots=True)
class Folded:
    """What folding gives.

    touched: (T,) rows with a new revision, ascending; newest_position: (T,) record of the newest effect of each;
    applied: (A,) applied events in log order, without those that a return has voided before they came: these count as
    applied, and nobody learns from them; dead_letters: (reason, record position), in log order too.
    """

    outcomes: Counter[tuple[Outcome, Reason | None]] = field(default_factory=Counter)
    dead_letters: list[tuple[Reason | Outcome, int]] = field(default_factory=list)
    touched: Index = field(default_factory=lambda: np.zeros(0, np.intp))
    newest_position: Index = field(default_factory=lambda: np.zeros(0, np.intp))
    applied: Index = field(default_factory=lambda: np.zeros(0, np.intp))


def fold(columns: Columns, users: UserRows, policy: Policy, strangers: Sequence[int]) -> Folded:
    """Apply events to rows in place.

    ``strangers`` are users without a row whose key does not belong to this partition: their events are dead letters,
    since taking them would split a user in two.
    """
    folded = Folded()
    events = np.arange(len(columns.user))
    if strangers:
        strange = np.isin(columns.user, np.array(strangers))
        for event in events[strange].tolist():
            folded.dead_letters.append((Reason.WRONG_PARTITION, int(columns.position[event])))
        folded.outcomes[Outcome.DEAD_LETTER, Reason.WRONG_PARTITION] += int(strange.sum())
        events = events[~strange]
    newest = np.full(len(users), -1, np.intp)
    rounds = _rounds(columns.user, events)
    applied = [_round(chosen, columns, users, policy, folded, newest) for chosen in rounds]
    folded.applied = np.sort(np.concatenate(applied)) if applied else folded.applied
    folded.touched = np.flatnonzero(newest >= 0)
    folded.newest_position = newest[folded.touched]
    folded.dead_letters.sort(key=lambda letter: letter[1])
    return folded


def _rounds(user: Index, events: Index) -> list[Index]:
    """Events by their rank within their user: round r holds the r-th event of each user."""
    if not len(events):
        return []
    order = np.argsort(user[events], kind="stable")
    sorted_user = user[events][order]
    starts = np.flatnonzero(np.r_[True, sorted_user[1:] != sorted_user[:-1]])
    if len(starts) == len(events):
        return [events]
    rank = np.arange(len(events)) - np.repeat(starts, np.diff(np.r_[starts, len(events)]))
    by_rank = np.argsort(rank, kind="stable")
    return np.split(events[order][by_rank], np.cumsum(np.bincount(rank))[:-1])


def _round(events: Index, columns: Columns, users: UserRows, policy: Policy, folded: Folded, newest: Index) -> Index:
    """One event each of distinct users; returns the applied ones that no return has voided."""
    outcomes = folded.outcomes
    user, at = columns.user[events], columns.timestamp[events]
    seen = _seen(users, user, columns.request[events], policy.keys_window_ms)
    duplicate = np.zeros(len(events), bool)
    if seen.any():
        hit = np.flatnonzero(seen.any(axis=1))
        prints = users.fingerprint[user[hit], seen[hit].argmax(axis=1)]
        same = prints == columns.fingerprint[events[hit]]
        duplicate[hit] = True
        outcomes[Outcome.DUPLICATE, None] += int(same.sum())
        outcomes[Outcome.CONFLICT, None] += int((~same).sum())
        for event in events[hit[~same]].tolist():
            folded.dead_letters.append((Outcome.CONFLICT, int(columns.position[event])))
    left = ~duplicate
    left = _drop(left, _capped(columns, events, users, policy), outcomes, Outcome.FILTERED, Reason.CAPPED)
    received = columns.received[events]
    left = _drop(left, at < received - policy.window_ms, outcomes, Outcome.FILTERED, Reason.OUTSIDE_WINDOW)
    left = _drop(left, at < received - policy.lateness_ms, outcomes, Outcome.LATE, None)
    events = events[left]
    if not len(events):
        return events
    user, at, kind = columns.user[events], columns.timestamp[events], columns.kind[events]
    applied = events
    if kind.any():
        for event in events[kind != POSITIVE].tolist():
            returned = columns.kind[event] == RETURN
            suppress(users, int(columns.user[event]), columns, event, returned, policy.suppress_capacity)
        outcomes[Outcome.SUPPRESSED, None] += int(np.count_nonzero(kind))
        applied = events[kind == POSITIVE]
    _write_keys(users, user, columns, events)
    head = users.head
    head["event_time"][user] = np.maximum(head["event_time"][user], at)
    head["source_next"][user] = columns.offset[events] + 1
    newest[user] = columns.position[events]
    if columns.segment is not None:
        _note_segments(users, columns.segment[events], user, at)
    if len(applied):
        outcomes[Outcome.APPLIED, None] += len(applied)
        applied = _apply(users, columns, applied, policy)
    return applied


def _seen(users: UserRows, user: Index, request: npt.NDArray[np.uint64], window_ms: int) -> npt.NDArray[np.bool_]:
    """(E, R) which live key of its user each request hash equals; a hash is never 0, an empty slot always."""
    equal: npt.NDArray[np.bool_] = users.request[user] == request[:, None]
    if equal.any():
        oldest = (users.head["event_time"][user] - window_ms) // 1000
        equal &= users.key_time[user] >= oldest[:, None]
    return equal


def _drop(
    left: npt.NDArray[np.bool_],
    now: npt.NDArray[np.bool_] | None,
    outcomes: Counter[tuple[Outcome, Reason | None]],
    outcome: Outcome,
    reason: Reason | None,
) -> npt.NDArray[np.bool_]:
    """Count those of ``left`` that ``now`` ends, and return the others."""
    if now is None:
        return left
    gone = left & now
    if not gone.any():
        return left
    outcomes[outcome, reason] += int(gone.sum())
    return left & ~gone


def _capped(columns: Columns, events: Index, users: UserRows, policy: Policy) -> npt.NDArray[np.bool_] | None:
    """Positive events beyond the policy's caps: strength of one item for one user, events of one user in one day."""
    # A newer rating replaces the older one: there is no strength that could grow beyond a cap.
    cap_item_strength = policy.cap_item_strength if policy.feedback == "implicit" else 0.0
    if not cap_item_strength and not policy.cap_user_events_per_day:
        return None
    user, at = columns.user[events], columns.timestamp[events]
    over = np.zeros(len(events), bool)
    if cap_item_strength:
        match = users.item[user] == columns.item[events][:, None]
        slot = match.argmax(axis=1)
        strength = strength_at(users.strength[user, slot], users.time[user, slot], at, policy.half_life_ms)
        over |= match.any(axis=1) & (strength >= cap_item_strength)
    if policy.cap_user_events_per_day:
        today = users.head["cap_day"][user] == at // DAY_MS
        over |= today & (users.head["cap_count"][user] >= policy.cap_user_events_per_day)
    capped: npt.NDArray[np.bool_] = over & (columns.kind[events] == POSITIVE)
    return capped


def _write_keys(users: UserRows, user: Index, columns: Columns, events: Index) -> None:
    """Put each event's key into its user's ring."""
    head, size = users.head, users.request.shape[1]
    slot = head["key_head"][user]
    users.request[user, slot] = columns.request[events]
    users.fingerprint[user, slot] = columns.fingerprint[events]
    users.key_time[user, slot] = columns.timestamp[events] // 1000
    head["key_head"][user] = (slot + 1) % size
    head["keys"][user] = np.minimum(head["keys"][user] + 1, size)


def _note_segments(users: UserRows, segment: npt.NDArray[np.uint64], user: Index, at: IntArray) -> None:
    """A user is of the segment that the newest event named; of two at the same time the greater hash counts."""
    for row, name, time in zip(user.tolist(), segment.tolist(), at.tolist(), strict=True):
        extras = users.extras.get(row, Extras())
        if name and (time, name) > (extras.segment_at, extras.segment):
            users.extras[row] = structs.replace(extras, segment=name, segment_at=time)


def _apply(users: UserRows, columns: Columns, events: Index, policy: Policy) -> Index:
    """Weigh positive events into their users' histories; returns those that no return has voided."""
    head, user, at = users.head, columns.user[events], columns.timestamp[events]
    head["events"][user] += 1
    day, today = head["cap_day"][user], at // DAY_MS
    head["cap_count"][user] = np.where(today > day, 1, head["cap_count"][user] + (today == day))
    head["cap_day"][user] = np.maximum(day, today)
    if users.extras:
        keep = [not lifts(users, int(columns.user[event]), columns, event) for event in events.tolist()]
        events = events[np.array(keep, bool)]
        user, at = columns.user[events], columns.timestamp[events]
    entries = head["entries"].astype(np.int64)
    fold_batch(
        users.item,
        users.strength,
        users.time,
        entries,
        columns.item[events],
        columns.weight[events],
        at,
        policy.half_life_ms,
        rows=user,
        merge=merge_of(policy),
    )
    head["entries"] = entries
    return events
