"""Events into a row: the twin of `streamer.steps.fold`, to the bit. No fast maths, no fused multiply-add."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from streamer.factors.kernel.jit import jit
from streamer.factors.kernel.rows import (
    H_CAP_COUNT,
    H_CAP_DAY,
    H_ENTRIES,
    H_EVENT_TIME,
    H_EVENTS,
    H_KEY_HEAD,
    H_KEYS,
    H_SOURCE_NEXT,
    Row,
)
from streamer.factors.kernel.rules import APPLIED, CONFLICT, DUPLICATE, LATE, OUTSIDE_WINDOW, Rules
from streamer.factors.packed import FINGERPRINT, ITEM, OFFSET, RECEIVED, REQUEST, TIMESTAMP
from streamer.factors.weigh import EXP2, MAX_STRENGTH

DAY_MS = 86_400_000
_COEFFICIENTS = np.array(EXP2[::-1])
_POWERS = np.ldexp(1.0, -np.arange(1001))


@jit()
def decay(age_ms: Any, half_life_ms: int) -> Any:
    """The twin of `weigh.decay`."""
    if half_life_ms == 0:
        return 1.0
    x = -(float(age_ms) / float(half_life_ms))
    gone = x <= -1000.0
    x = max(x, -1000.0)
    whole = math.floor(x)
    fraction = x - whole
    power = _COEFFICIENTS[0]
    for i in range(1, 16):
        power = power * fraction + _COEFFICIENTS[i]
    return 0.0 if gone else power * _POWERS[-int(whole)]


@jit()
def judge(row: Row, event: Any, rules: Rules) -> int:
    """What becomes of one event, before it changes anything."""
    request = np.uint64(event[REQUEST])
    oldest = (row.head8[H_EVENT_TIME] - rules.keys_window_ms) // 1000
    for slot in range(rules.keys):
        if row.request[slot] == request and np.int64(row.second[slot]) >= oldest:
            return DUPLICATE if row.fingerprint[slot] == np.uint32(event[FINGERPRINT]) else CONFLICT
    if event[TIMESTAMP] < event[RECEIVED] - rules.window_ms:
        return OUTSIDE_WINDOW
    if event[TIMESTAMP] < event[RECEIVED] - rules.lateness_ms:
        return LATE
    return APPLIED


@jit()
def victim(row: Row, entries: int, item: Any, at: Any) -> int:
    """The slot of the smallest (time, hash), or -1 where the newcomer is smaller."""
    oldest, lowest, slot = at, item, -1
    for i in range(entries):
        if row.time[i] < oldest or (row.time[i] == oldest and row.item[i] < lowest):
            oldest, lowest, slot = row.time[i], row.item[i], i
    return slot


@jit()
def weigh_in(row: Row, item: Any, weight: float, at: int, rules: Rules) -> None:
    """The twin of `history.fold_event`."""
    entries = np.int64(row.head2[H_ENTRIES])
    for found in range(entries):
        if row.item[found] == item:
            old, time = np.float64(row.strength[found]), row.time[found]
            factor = decay(abs(at - time), rules.half_life_ms)
            total = old * factor + weight if at >= time else old + weight * factor
            row.strength[found] = np.float32(min(total, MAX_STRENGTH))
            row.time[found] = max(at, time)
            return
    slot: Any = entries
    if entries >= rules.history:
        slot = victim(row, entries, item, at)
        if slot < 0:
            return
    else:
        row.head2[H_ENTRIES] = entries + 1
    row.item[slot], row.time[slot] = item, at
    row.strength[slot] = np.float32(min(weight, MAX_STRENGTH))


@jit()
def take(row: Row, event: Any, weight: float, rules: Rules) -> None:
    """Apply one event: its key, the head, the history."""
    at = event[TIMESTAMP]
    head2, head8 = row.head2, row.head8
    slot = np.int64(head2[H_KEY_HEAD])
    row.request[slot] = np.uint64(event[REQUEST])
    row.fingerprint[slot] = np.uint32(event[FINGERPRINT])
    row.second[slot] = np.uint32(at // 1000)
    head2[H_KEY_HEAD] = (slot + 1) % rules.keys
    head2[H_KEYS] = min(np.int64(head2[H_KEYS]) + 1, rules.keys)
    head8[H_EVENT_TIME] = max(head8[H_EVENT_TIME], at)
    head8[H_SOURCE_NEXT] = event[OFFSET] + 1
    head8[H_EVENTS] += 1
    day, today = np.int64(row.head4[H_CAP_DAY]), at // DAY_MS
    row.head4[H_CAP_COUNT] = 1 if today > day else np.int64(row.head4[H_CAP_COUNT]) + (1 if today == day else 0)
    row.head4[H_CAP_DAY] = max(day, today)
    weigh_in(row, np.uint64(event[ITEM]), weight, at, rules)


@jit()
def fold(row: Row, events: Any, weights: Any, mine: Any, outcome: Any, rules: Rules) -> int:
    """Judge and apply the events `mine` of one user; returns the newest one applied, -1 for none."""
    newest = -1
    for i in range(mine.size):
        e = mine[i]
        outcome[e] = judge(row, events[e], rules)
        if outcome[e] == APPLIED:
            take(row, events[e], weights[e], rules)
            newest = e
    return newest
