"""One batch: every plain user's row read, folded, solved and written."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import types

from streamer.factors import packed, weigh
from streamer.factors.kernel.folding import fold
from streamer.factors.kernel.jit import copy, fill, jit, number_of
from streamer.factors.kernel.rows import (
    H_EVENT_TIME,
    H_EVENTS,
    H_GENERATION,
    H_SOURCE_NEXT,
    H_VERSION,
    HEAD_BYTES,
    Row,
    load,
    store,
)
from streamer.factors.kernel.rules import (
    APPLIED,
    F_APPLIED,
    F_NOT_PLAIN,
    N_AVERAGE,
    N_END,
    N_EVENT_TIME,
    N_EVENTS,
    N_NEWEST,
    N_SOURCE_NEXT,
    N_USER,
    N_VERSION,
    NOT_PLAIN,
    OTHER,
    STRANGER,
    TOUCHED,
    UNTOUCHED,
    Rules,
)
from streamer.factors.kernel.solving import UNROLL, Space, Work, solve
from streamer.factors.kernel.weighing import confidences, weigh_events
from streamer.factors.packed import KIND, POSITION, USER


@jit()
def room(rules: Rules) -> Any:
    """An empty row, and scratch."""
    k, history, keys = rules.dimension, rules.history, rules.keys
    limit = (history + UNROLL - 1) // UNROLL * UNROLL
    head = np.zeros(HEAD_BYTES // 8, np.int64)
    row = Row(
        head.view(np.uint8),
        head.view(np.uint16),
        head.view(np.uint32),
        head,
        np.zeros(k, np.float32),
        np.zeros(history, np.uint64),
        np.zeros(history, np.int64),
        np.zeros(history, np.float32),
        np.zeros(keys, np.uint64),
        np.zeros(keys, np.uint32),
        np.zeros(keys, np.uint32),
    )
    work = Work(
        np.zeros(history, np.int64),
        np.zeros(history, np.int64),
        np.zeros(history),
        np.zeros(history),
        np.zeros(history, np.int64),
        np.zeros((limit, k), np.float32),
        np.zeros(limit, np.float32),
        np.zeros(limit, np.float32),
        np.zeros(limit, np.float32),
        np.zeros(k, np.float32),
        np.zeros(k, np.float32),
        np.zeros(k, np.float32),
        np.zeros(k, np.float32),
        np.zeros(k, np.float32),
        np.zeros(k),
        np.zeros(k),
    )
    return row, work


@jit()
def by_user(events: Any, users: int) -> Any:
    """The events ordered by user, each user's in log order, and where each user's begin."""
    first = np.zeros(users + 1, np.int64)
    for e in range(len(events)):
        first[events[e, USER] + 1] += 1
    for user in range(users):
        first[user + 1] += first[user]
    order, filled = np.empty(len(events), np.int64), first.copy()
    for e in range(len(events)):
        user = events[e, USER]
        order[filled[user]] = e
        filled[user] += 1
    return order, first


@jit()
def say(row: Row, user: int, newest: int, end: int, average: Any, numbers: Any) -> None:
    """What becomes known of a touched user outside."""
    same = 1
    for j in range(average.size):
        if row.vector[j] != average[j]:
            same = 0
            break
    numbers[N_USER], numbers[N_NEWEST], numbers[N_END], numbers[N_AVERAGE] = user, newest, end, same
    numbers[N_VERSION], numbers[N_EVENTS] = row.head8[H_VERSION], row.head8[H_EVENTS]
    numbers[N_EVENT_TIME], numbers[N_SOURCE_NEXT] = row.head8[H_EVENT_TIME], row.head8[H_SOURCE_NEXT]


_u1, _i4, _i8, _u8, _f4, _f8 = types.uint8, types.int32, types.int64, types.uint64, types.float32, types.float64
_SIGNATURE: Any = _i8(
    # rules, as a plain tuple: numba takes it apart in C
    types.UniTuple(_i8, 12),  # type: ignore[no-untyped-call]
    types.UniTuple(_f8, 11),  # type: ignore[no-untyped-call]
    _i8[:, ::1],
    _f4[::1],
    # space
    types.Array(_u1, 1, "C", readonly=True),
    _u8[::1],
    _i4[::1],
    _f4[:, ::1],
    _f4[::1],
    _f4[:, ::1],
    _f8[:, ::1],
    _f8[::1],
    _f4[:, ::1],
    # batch
    types.Array(_u1, 1, "C", readonly=True),
    _i8[::1],
    types.Array(_i8, 2, "C", readonly=True),
    types.Array(_f8, 1, "A", readonly=True),
    # results
    _u1[::1],
    _f4[:, ::1],
    _f8[::1],
    _i8[:, ::1],
    _u1[::1],
    _u1[::1],
    _i8[::1],
    _i8[::1],
    _f8[::1],
    _f8[::1],
)


def _compile(sources: int) -> Callable[..., int]:
    """Compile, or load what was compiled of these sources: numba's cache by itself looks at this file alone.

    It tells functions apart by the values they close over: that is what ``sources`` is there for.
    """

    @jit(_SIGNATURE)
    def batch(
        whole: Any,
        real: Any,
        classes: Any,
        average: Any,
        epochs: Any,
        hashes: Any,
        values: Any,
        whitened: Any,
        leverage: Any,
        lower: Any,
        inverse: Any,
        spread: Any,
        remainder: Any,
        data: Any,
        lengths: Any,
        events: Any,
        weights: Any,
        out: Any,
        vectors: Any,
        norms: Any,
        numbers: Any,
        state: Any,
        outcome: Any,
        applied: Any,
        owner: Any,
        confidence: Any,
        facts: Any,
    ) -> int:
        """Refresh every plain user of a batch; returns how many were touched (T).

        Reads::

            whole, real      Rules, its whole numbers and its real ones
            classes          (C, 2) size classes, ascending
            average          (k,) the vector of a user without a known item
            epochs           the bytes of the item epochs
            hashes .. spread, remainder    see `Space`
            data, lengths    the rows end to end, and how long each is; `NO_ROW` and `STRANGER` have none
            events, weights  the events (`packed`), and their weights

        Writes, to arrays that may be longer than what is written::

            out              the new rows, end to end
            vectors (T, k), norms (T,), numbers (T, NUMBERS)    of the touched users, ascending
            state            (B,) what became of each user
            outcome          (E,) what became of each event
            applied, owner, confidence    (A,) the applied events in log order, the positions of their users among the
                             touched, the confidences of their items
            facts            (FACTS,)
        """
        if not sources:
            return -1
        rules = Rules(
            whole[0], whole[1], whole[2], whole[3], whole[4], whole[5], whole[6], whole[7], whole[8], whole[9],
            whole[10], whole[11], real[0], real[1], real[2], real[3], real[4], real[5], real[6],
            real[7], real[8], real[9], real[10],
        )  # fmt: skip
        space = Space(hashes, values, whitened, leverage, lower, inverse, spread, remainder)
        row, work = room(rules)
        order, first = by_user(events, lengths.size)
        weighed, place = np.zeros(len(events)), np.zeros(lengths.size, np.int64)
        fill(facts, 0, 0.0)
        touched, at, end = 0, 0, 0
        for user in range(lengths.size):
            length, mine = lengths[user], order[first[user] : first[user + 1]]
            start, at = at, at + max(length, 0)
            plain = length != STRANGER and load(row, data, start, length, classes, rules)
            for i in range(mine.size):
                plain = plain and events[mine[i], KIND] == 0
            state[user], newest, square, entries = UNTOUCHED, -1, 0.0, 0
            if plain:
                newest = fold(row, events, weights, mine, outcome, rules)
            if newest >= 0:
                entries = confidences(row, work, rules)
                square = solve(row, entries, average, space, work, rules, facts)
            if not plain or square < 0:
                state[user] = NOT_PLAIN
                facts[F_NOT_PLAIN] += 1
                for i in range(mine.size):
                    outcome[mine[i]] = OTHER
            elif newest >= 0:
                state[user] = TOUCHED
                row.head8[H_GENERATION] = rules.generation
                row.head8[H_VERSION] += 1
                end = store(row, epochs, out, end, classes, rules)
                copy(row.vector, 0, vectors[touched], 0, rules.dimension)
                norms[touched] = math.sqrt(square)
                say(row, user, events[newest, POSITION], end, average, numbers[touched])
                weigh_events(row, entries, work.confidence, events, weights, mine, outcome, weighed, rules)
                place[user] = touched
                touched += 1
        count = 0
        for e in range(len(events)):
            facts[F_APPLIED + outcome[e]] += 1
            if outcome[e] == APPLIED:
                applied[count], owner[count], confidence[count] = e, place[events[e, USER]], weighed[e]
                count += 1
        return touched

    compiled: Callable[..., int] = batch
    return compiled


refresh = _compile(number_of([*Path(__file__).parent.glob("*.py"), Path(packed.__file__), Path(weigh.__file__)]))
