"""What the user step publishes, as records of Kafka's wire format: rows, vectors, signals.

Each function writes into ``out`` one record batch after another (each with room for its header in front), and in
``chunks`` for each of them its target, its end in ``out`` and its number of records; it returns how many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import types

from schemas import layouts
from streamer.factors import packed
from streamer.factors.kernel import rules
from streamer.factors.kernel.jit import copy, jit, number_of
from streamer.factors.kernel.rules import N_END, N_EVENT_TIME, N_EVENTS, N_SOURCE_NEXT, N_USER, N_VERSION
from streamer.factors.packed import TARGET, TIMESTAMP
from streamer.steps import wire
from streamer.steps.kernel.digits import WIDEST, put_real, put_whole
from streamer.steps.kernel.wire import end_record, place_for, put_bytes, put_head, put_size, size_of, start_of

T_ID, T_VECTOR, T_VERSION, T_EVENTS, T_EVENT_TIME, T_REST, T_FIXED, T_CE_ID, T_SOURCE, T_RECORD, T_PLACE = range(11)
"""The parts of a factor record that never change within a batch, see `Publisher.parts` in `streamer.steps.records`."""

_QUOTE, _BACKSLASH, _SPACE, _COMMA, _CLOSE, _SLASH = 34, 92, 32, 44, 125, 47
SIGNAL_HEAD = 32
_FORMAT, _SIGNAL = layouts.FORMAT, layouts.SIGNAL


@jit()
def _put_text(out: Any, at: int, data: Any, start: int, end: int) -> Any:
    """Write UTF-8 bytes as a JSON string."""
    out[at] = _QUOTE
    at += 1
    for i in range(start, end):
        byte = data[i]
        if byte in (_QUOTE, _BACKSLASH):
            out[at], out[at + 1] = _BACKSLASH, byte
            at += 2
        elif byte < _SPACE:
            low = byte % 16
            out[at], out[at + 1], out[at + 2], out[at + 3] = _BACKSLASH, 117, 48, 48
            out[at + 4] = 48 + byte // 16
            out[at + 5] = 48 + low if low < 10 else 87 + low
            at += 6
        else:
            out[at] = byte
            at += 1
    out[at] = _QUOTE
    return at + 1


@jit()
def _part(out: Any, at: int, texts: Any, ends: Any, number: int) -> Any:
    """Copy one of the unchanging parts."""
    return put_bytes(out, at, texts, start_of(ends, number), ends[number])


@jit()
def _put_record(
    out: Any, vector: Any, numbers: Any, key: Any, start: int, end: int, texts: Any, ends: Any, extra: Any, tens: Any,
    raw: bool,
) -> Any:  # fmt: skip
    """Write a factor record's JSON, without the vector if it is ``raw``."""
    at = _part(out, 0, texts, ends, T_ID)
    at = _put_text(out, at, key, start, end)
    at = _part(out, at, texts, ends, T_VECTOR)
    if not raw:
        for j in range(vector.size):
            at = np.int64(put_real(out, at, vector[j], tens))
            out[at] = _COMMA
            at += 1
        at -= 1
    at = put_whole(out, _part(out, at, texts, ends, T_VERSION), numbers[N_VERSION])
    at = put_whole(out, _part(out, at, texts, ends, T_EVENTS), numbers[N_EVENTS])
    at = put_whole(out, _part(out, at, texts, ends, T_EVENT_TIME), numbers[N_EVENT_TIME])
    at = put_bytes(out, _part(out, at, texts, ends, T_REST), extra, 0, extra.size)
    out[at] = _CLOSE
    return at + 1


_i8, _u8, _u1, _f4, _f8 = types.int64, types.uint64, types.uint8, types.float32, types.float64
_bytes = types.Array(_u1, 1, "C", readonly=True)
_CHANGELOG: Any = _i8(_u1[::1], _i8[:, ::1], _i8, _bytes, _i8[::1], _bytes, _i8[:, ::1])
_FACTORS: Any = _i8(
    _u1[::1], _i8[:, ::1], _i8, _bytes, _i8[::1], _f4[:, ::1], _i8[:, ::1], _bytes, _i8[::1], _bytes, _i8[:, ::1],
    _bytes, _i8[:, ::1], _f8[:, ::1], types.boolean,
)  # fmt: skip
_SIGNALS: Any = _i8(
    _u1[::1], _i8[:, ::1], _i8, _bytes, _i8[::1], types.Array(_i8, 2, "C", readonly=True), _i8[::1], _i8[::1],
    _f8[::1], _u8[::1], _f4[:, ::1], _i8, _i8,
)  # fmt: skip


def _compile(  # noqa: C901 - three functions, none of them long
    sources: int,
) -> tuple[Callable[..., int], Callable[..., int], Callable[..., int]]:
    """Compile, or load what was compiled of these sources (as `streamer.factors.kernel.refresh` does)."""

    @jit(_CHANGELOG)
    def write_changelog(out: Any, chunks: Any, limit: int, keys: Any, key_ends: Any, rows: Any, numbers: Any) -> int:
        """One record a row: its key and its bytes.

        keys, key_ends: the keys of all users of the batch end to end; rows: the rows of the touched ones, end to end;
        numbers (T, NUMBERS): see `streamer.factors.kernel.rules`.
        """
        if not sources or not len(numbers):
            return 0
        chunk, row = -1, 0
        for t in range(len(numbers)):
            user, end = numbers[t, N_USER], numbers[t, N_END]
            start = start_of(key_ends, user)
            key = key_ends[user] - start
            chunk, at = place_for(key + end - row + 32, chunks, chunk, 0, limit)
            at = put_head(out, at, chunks[chunk, 2], key, end - row, 1)
            at = put_bytes(out, put_size(out, at, key), keys, start, start + key)
            at = put_bytes(out, put_size(out, at, end - row), rows, row, end)
            out[at] = 0
            end_record(chunks, chunk, at + 1)
            row = end
        return chunk + 1

    @jit(_FACTORS)
    def write_factors(
        out: Any,
        chunks: Any,
        limit: int,
        keys: Any,
        key_ends: Any,
        vectors: Any,
        numbers: Any,
        texts: Any,
        ends: Any,
        extras: Any,
        extra_of: Any,
        traces: Any,
        trace_of: Any,
        tens: Any,
        raw: bool,
    ) -> int:
        """One factor record a touched user, with its headers.

        texts, ends: the unchanging parts, end to end; extras, extra_of (T, 2): JSON fields to append, and which of it;
        traces, trace_of (T, 2): further headers as they are on the wire, and which of it; tens: `digits.TENS`.
        """
        if not sources or not len(numbers):
            return 0
        widest, longest, chunk = 0, 0, -1
        for t in range(len(numbers)):
            user = numbers[t, N_USER]
            widest = max(widest, key_ends[user] - start_of(key_ends, user))
            longest = max(longest, extra_of[t, 1] - extra_of[t, 0])
        room = ends[T_PLACE] + longest + 6 * widest + WIDEST * vectors.shape[1] + 256
        json, name = np.empty(room, np.uint8), np.empty(room, np.uint8)
        for t in range(len(numbers)):
            user = numbers[t, N_USER]
            start = start_of(key_ends, user)
            key = key_ends[user] - start
            extra = extras[extra_of[t, 0] : extra_of[t, 1]]
            size = _put_record(json, vectors[t], numbers[t], keys, start, start + key, texts, ends, extra, tens, raw)
            # ce_id: key/version, and factors.source: topic/partition/offset
            middle = put_bytes(name, 0, keys, start, start + key)
            name[middle] = _SLASH
            middle = put_whole(name, middle + 1, numbers[t, N_VERSION])
            last = put_whole(name, _part(name, middle, texts, ends, T_PLACE), numbers[t, N_SOURCE_NEXT] - 1)
            trace = trace_of[t, 1] - trace_of[t, 0]
            value = 4 * vectors.shape[1] if raw else size
            headers = 1 + ends[T_RECORD] - ends[T_REST] + size_of(middle) + size_of(last - middle) + last + trace
            if raw:
                headers += size_of(size) + size
            else:
                headers -= ends[T_RECORD] - ends[T_SOURCE]
            chunk, at = place_for(key + value + headers + 32, chunks, chunk, 0, limit)
            at = put_head(out, at, chunks[chunk, 2], key, value, headers)
            at = put_bytes(out, put_size(out, at, key), keys, start, start + key)
            at = put_size(out, at, value)
            at = put_bytes(out, at, vectors[t].view(np.uint8), 0, value) if raw else put_bytes(out, at, json, 0, size)
            at = put_size(out, at, 6 + np.int64(raw) + np.int64(trace > 0))
            at = _part(out, _part(out, at, texts, ends, T_FIXED), texts, ends, T_CE_ID)
            at = put_bytes(out, put_size(out, at, middle), name, 0, middle)
            at = put_size(out, _part(out, at, texts, ends, T_SOURCE), last - middle)
            at = put_bytes(out, at, name, middle, last)
            if raw:
                at = put_size(out, _part(out, at, texts, ends, T_RECORD), size)
                at = put_bytes(out, at, json, 0, size)
            end_record(chunks, chunk, put_bytes(out, at, traces, trace_of[t, 0], trace_of[t, 1]))
        return chunk + 1

    @jit(_SIGNALS)
    def write_signals(
        out: Any,
        chunks: Any,
        limit: int,
        items: Any,
        item_ends: Any,
        events: Any,
        applied: Any,
        owner: Any,
        confidence: Any,
        names: Any,
        vectors: Any,
        generation: int,
        targets: int,
    ) -> int:
        """One signal an applied event, batches by the partition of the item's owner.

        items, item_ends: the ids of all events' items, end to end; names (T,): hashes of the touched users;
        targets: how many partitions there are.
        """
        if not sources or not len(applied):
            return 0
        k = vectors.shape[1]
        head = np.zeros(SIGNAL_HEAD // 8, np.int64)
        head1, head2, head4 = head.view(np.uint8), head.view(np.uint16), head.view(np.float32)
        size = SIGNAL_HEAD + 4 * k
        head1[0], head1[1], head2[1], head[3] = _FORMAT, _SIGNAL, k, generation
        order, first = np.empty(len(applied), np.int64), np.zeros(targets + 1, np.int64)
        for a in range(len(applied)):
            first[events[applied[a], TARGET] + 1] += 1
        for target in range(targets):
            first[target + 1] += first[target]
        filled = first.copy()
        for a in range(len(applied)):
            target = events[applied[a], TARGET]
            order[filled[target]] = a
            filled[target] += 1
        chunk = -1
        for target in range(targets):
            for i in range(first[target], first[target + 1]):
                a = order[i]
                event, user = applied[a], owner[a]
                start = start_of(item_ends, event)
                key = item_ends[event] - start
                chunk, at = place_for(key + size + 32, chunks, chunk, target, limit)
                at = put_head(out, at, chunks[chunk, 2], key, size, 1)
                at = put_bytes(out, put_size(out, at, key), items, start, start + key)
                at = put_size(out, at, size)
                head4[1], head[1], head[2] = confidence[a], events[event, TIMESTAMP], np.int64(names[user])
                copy(head1, 0, out, at, SIGNAL_HEAD)
                copy(vectors[user].view(np.uint8), 0, out, at + SIGNAL_HEAD, 4 * k)
                out[at + size] = 0
                end_record(chunks, chunk, at + size + 1)
        return chunk + 1

    return write_changelog, write_factors, write_signals


write_changelog, write_factors, write_signals = _compile(
    number_of(
        [
            *Path(__file__).parent.glob("*.py"),
            *Path(rules.__file__).parent.glob("*.py"),
            *map(Path, (packed.__file__, layouts.__file__, wire.__file__)),
        ]
    )
)
