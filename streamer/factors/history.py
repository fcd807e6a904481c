"""The bounded history of a user: one entry (item hash, strength, newest time) an item, at most `capacity` of them.

    known item   the event is added to its entry (`weigh.add_event`)
    room left    a new entry goes behind the last one
    full         the smallest (time, item hash) among the entries and the newcomer goes; the newcomer takes its slot,
                 or is dropped where it is the smallest itself

Slots keep the order of first appearance. The three functions give the same bytes: `fold_event` is the reference,
`fold_batch` takes one event of each of many users, `fold_users` all events of many users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.factors.weigh import add_event, add_events, to_float32

HashArray = NDArray[np.uint64]
Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Index = NDArray[np.intp]

Merge = Callable[[Float32Array, IntArray, FloatArray, IntArray, int], tuple[Float32Array, IntArray]]
"""What a further event does to an entry: `weigh.add_events`, or `explicit.replace_ratings` where events are ratings."""

DROPPED = -1
_LAST_HASH = np.uint64(2**64 - 1)
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Histories:
    """Histories as columns: items (U, H) uint64, strength (U, H) float32, time (U, H) int64 ms, count (U,) int64.

    Slots from `count` on are zero.
    """

    items: HashArray
    strength: Float32Array
    time: IntArray
    count: IntArray


def fold_event(
    items: list[int],
    strength: list[float],
    time: list[int],
    item: int,
    weight: float,
    at: int,
    *,
    half_life_ms: int,
    capacity: int,
) -> int:
    """Fold one event into one history, in place (three lists of equal length); return its slot or `DROPPED`."""
    if item in items:
        slot = items.index(item)
        strength[slot], time[slot] = add_event(strength[slot], time[slot], weight, at, half_life_ms)
        return slot
    if len(items) < capacity:
        items.append(item)
        strength.append(to_float32(weight))
        time.append(at)
        return len(items) - 1
    slot = min(range(len(items)), key=lambda i: (time[i], items[i]))
    if (time[slot], items[slot]) > (at, item):
        return DROPPED
    items[slot], strength[slot], time[slot] = item, to_float32(weight), at
    return slot


def fold_batch(
    items: HashArray,
    strength: Float32Array,
    time: IntArray,
    count: IntArray,
    item: HashArray,
    weight: FloatArray,
    at: IntArray,
    half_life_ms: int,
    *,
    rows: Index | None = None,
    capacity: int | None = None,
    merge: Merge = add_events,
) -> Index:
    """Fold one event into each of N histories, in place.

    In place, since a copy of the columns costs more than the fold: the batch's columns are the worker's own.

    Args:
        items: (B, H) as in `Histories`; this and the next three are changed in place.
        strength: (B, H).
        time: (B, H).
        count: (B,).
        item: (N,) item hash of each event, never 0.
        weight: (N,) weight of each event.
        at: (N,) time of each event, ms.
        half_life_ms: half-life of strengths, 0 for no decay.
        rows: (N,) distinct rows that the events belong to; None where N = B and event i is row i's.
        capacity: entries a history may hold, at most H, which is the default.
        merge: what an event does to the entry of its item.

    Returns:
        (N,) the slot each event went to, `DROPPED` where it was too old for a full history.
    """
    limit = items.shape[1] if capacity is None else capacity
    row: Index = np.arange(len(item)) if rows is None else rows
    held = count[row]
    slot = _find(items[:, : int(held.max(initial=0))], row, item)
    found = slot != DROPPED
    _add(merge, strength, time, row[found], slot[found], weight[found], at[found], half_life_ms)
    if found.all():
        return slot
    new = np.flatnonzero(~found)
    slot[new] = held[new]
    full = new[held[new] >= limit]
    if full.size:
        slot[full] = _victims(items[:, :limit], time[:, :limit], row[full], item[full], at[full])
        new = new[slot[new] != DROPPED]
    row, where = row[new], slot[new]
    items[row, where], time[row, where] = item[new], at[new]
    strength[row, where] = 0.0
    _add(merge, strength, time, row, where, weight[new], at[new], half_life_ms)
    count[row] = np.maximum(held[new], where + 1)
    return slot


def fold_users(
    user: NDArray[np.integer],
    item: HashArray,
    weight: FloatArray,
    at: IntArray,
    *,
    users: int,
    capacity: int,
    half_life_ms: int,
    merge: Merge = add_events,
) -> Histories:
    """Fold E events in log order, all (E,), into the histories of users 0 .. `users` - 1, all empty before.

    Needs 20 bytes a user and slot; split by user where that is too much, the histories do not depend on each other.
    """
    events = np.bincount(user, minlength=users)
    width = min(capacity, int(events.max(initial=0)))
    out = Histories(
        np.zeros((users, width), np.uint64),
        np.zeros((users, width), np.float32),
        np.zeros((users, width), np.int64),
        np.zeros(users, np.int64),
    )
    # Busiest users first: the users that still have an r-th event are then the leading rows, and rows are views.
    busiest = np.argsort(-events, kind="stable")
    place = np.empty(users, np.intp)
    place[busiest] = np.arange(users)
    order = np.argsort(place[user], kind="stable")
    ranked = events[busiest]
    rank = np.arange(len(order)) - np.repeat(np.cumsum(ranked) - ranked, ranked)
    order = order[np.argsort(rank, kind="stable")]
    stop = 0
    for active in np.bincount(rank).tolist():
        part = order[stop : stop + active]
        stop += active
        fold_batch(
            out.items[:active],
            out.strength[:active],
            out.time[:active],
            out.count[:active],
            item[part],
            weight[part],
            at[part],
            half_life_ms,
            merge=merge,
        )
    return Histories(out.items[place], out.strength[place], out.time[place], out.count[place])


def _add(
    merge: Merge,
    strength: Float32Array,
    time: IntArray,
    row: Index,
    slot: Index,
    weight: FloatArray,
    at: IntArray,
    half_life_ms: int,
) -> None:
    strength[row, slot], time[row, slot] = merge(strength[row, slot], time[row, slot], weight, at, half_life_ms)


def _blocks(count: int) -> Iterator[slice]:
    """Slices of a few hundred rows: their copies stay in the cache, and in memory that is not fresh each time."""
    return (slice(start, start + _BLOCK) for start in range(0, count, _BLOCK))


def _find(items: HashArray, row: Index, item: HashArray) -> Index:
    """The slot of item n in history row[n], `DROPPED` where it has none."""
    slot = np.full(len(item), DROPPED, np.intp)
    if not items.shape[1]:
        return slot
    for part in _blocks(len(item)):
        match = items[row[part]] == item[part, None]
        first = match.argmax(axis=1)
        slot[part] = np.where(match[np.arange(len(first)), first], first, DROPPED)
    return slot


def _victims(items: HashArray, time: IntArray, row: Index, item: HashArray, at: IntArray) -> Index:
    """The slot of the smallest (time, hash) of each full history row[n]; `DROPPED` where the newcomer is smaller."""
    slot = np.empty(len(item), np.intp)
    for part in _blocks(len(item)):
        times = time[row[part]]
        here = np.arange(len(times))
        first = times.argmin(axis=1)
        oldest = times[here, first]
        tied = times == oldest[:, None]
        ties = np.flatnonzero(np.count_nonzero(tied, axis=1) > 1)
        if ties.size:
            hashes = np.where(tied[ties], items[row[part][ties]], _LAST_HASH)
            smallest = hashes.min(axis=1)[:, None]
            first[ties] = (tied[ties] & (hashes == smallest)).argmax(axis=1)
        lowest = items[row[part], first]
        newcomer_goes = (at[part] < oldest) | ((at[part] == oldest) & (item[part] < lowest))
        slot[part] = np.where(newcomer_goes, DROPPED, first)
    return slot
