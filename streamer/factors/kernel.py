"""The plain user in one compiled pass: row bytes in, events folded, vector solved, row bytes out. Needs numba.

A user is *plain* where nothing rare happens: a well-formed row without extras, positive events only, a system that
conjugate gradients solve, a finite vector within the norm cap. `refresh` leaves everyone else alone and says so; the
numpy path (`steps.refresh`) takes them, and is what this module is tested against:

    history, keys, counts, outcomes   the same bytes: no fast maths, no fused multiply-add
    vector                            both within the promised error of the exact one

The machine code is cached by the time of this file alone: numbers from other modules that may be tuned come as
arguments (`Rules`), those of the contract are compiled in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types

from streamer.factors.packed import (
    FINGERPRINT,
    ITEM,
    KIND,
    OFFSET,
    POSITION,
    RECEIVED,
    REQUEST,
    TIMESTAMP,
    USER,
)
from streamer.factors.weigh import EXP2, MAX_CONFIDENCE, MAX_STRENGTH

APPLIED, DUPLICATE, CONFLICT, OUTSIDE_WINDOW, LATE, OTHER = range(6)
"""What became of an event; `OTHER`: its user is not plain."""

UNTOUCHED, TOUCHED, NOT_PLAIN = range(3)
"""What became of a user."""

(
    N_USER,
    N_NEWEST,  # position of the record of the newest effect
    N_VERSION,
    N_EVENTS,
    N_EVENT_TIME,
    N_SOURCE_NEXT,
    N_END,  # end of the row's bytes in the output
    N_AVERAGE,  # 1 where the vector is the average user's
) = range(8)
NUMBERS = 8
"""Columns of what `refresh` says of a touched user."""

(
    F_KNOWN,  # history entries that the space knows
    F_COLD,  # users without any
    F_STEPS,  # the most steps
    F_RESIDUAL,  # the largest residual, squared
    F_NOT_PLAIN,  # users who are not
    F_APPLIED,  # from here on, events by outcome: add `APPLIED`, `DUPLICATE` and so on
) = range(6)
FACTS = F_APPLIED + OTHER + 1
"""What `refresh` says of the whole batch."""

LOG, LINEAR, RAW = range(3)
NO_ROW, STRANGER = -1, -2
"""Stand for a row's length."""

_HEAD_BYTES = 64
_CLOSE = 1.0 - 1e-4  # longer vectors are the guard's
_TINY = np.float32(1e-30)
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12, _C13, _C14, _C15 = EXP2
_COEFFICIENTS = np.array(EXP2[::-1])
_POWERS = np.ldexp(1.0, -np.arange(1001))
_LN2 = math.log(2.0)
# Added to the bits of a number, it carries into the exponent from the root of two on; minus the exponent of 1.
_HALF_ROOT = (1 << 52) - (int(np.float64(math.sqrt(2.0)).view(np.int64)) & ((1 << 52) - 1)) - (1023 << 52)
_UNROLL = 4

# Everything but "no NaN, no infinity": bad numbers must show.
_FAST = {"contract", "reassoc", "nsz", "arcp"}


def _jit(signature: Any = None, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile; the machine code is kept beside this file or in the user's cache, if one of them is writable."""

    def compiled(function: Callable[..., Any]) -> Any:
        options.update(nogil=True, error_model="numpy")
        try:
            return njit(signature, cache=True, **options)(function)
        except RuntimeError:
            return njit(signature, **options)(function)

    return compiled


class Rules(NamedTuple):
    """The policy's numbers, the shape of a row and the generation."""

    dimension: int
    history: int
    keys: int
    epochs: int
    half_life_ms: int
    keys_window_ms: int
    window_ms: int
    lateness_ms: int
    confidence: int
    right: int
    generation: int
    max_steps: int
    alpha: float
    norm_cap: float
    tolerance: float
    max_peak: float
    max_trace: float


class _Row(NamedTuple):
    """One row as typed sections, and the head seen as numbers of 1, 2, 4 and 8 bytes; reused for every user."""

    head1: Any
    head2: Any
    head4: Any
    head8: Any
    vector: Any
    item: Any
    time: Any
    strength: Any
    request: Any
    fingerprint: Any
    second: Any


# Where the fields of the head lie in the views of 2, 4 and 8 bytes (schemas/layouts.py).
_DIMENSION, _ENTRIES, _KEYS, _EPOCHS, _KEY_HEAD = range(1, 6)
_EXTRAS, _CAP_DAY, _CAP_COUNT = 3, 14, 15
_GENERATION, _VERSION, _EVENTS, _EVENT_TIME, _SOURCE_NEXT = range(2, 7)
_DAY_MS = 86_400_000


# Loops over two slices become wide moves; slice assignments and sums of indexes do not.


@_jit()
def _copy(source: Any, at: int, target: Any, to: int, count: int) -> None:
    a, b = source[at : at + count], target[to : to + count]
    for i in range(count):
        b[i] = a[i]


@_jit()
def _fill(target: Any, start: int, value: Any) -> None:
    part = target[start:]
    for i in range(part.size):
        part[i] = value


@_jit()
def _class_of(classes: Any, entries: int, keys: int) -> int:
    number = 0
    while classes[number, 0] < entries or classes[number, 1] < keys:
        number += 1
    return number


@_jit()
def _load(row: _Row, data: Any, at: int, length: int, classes: Any, rules: Rules) -> bool:
    """Read a row's bytes; false where they are not those of a plain user."""
    k, p = rules.dimension, rules.epochs
    if length == NO_ROW:
        _fill(row.head8, 0, 0)
        row.head1[0], row.head1[1] = 1, 1
        row.head2[_DIMENSION], row.head2[_EPOCHS] = k, p
        _fill(row.vector, 0, 0)
        held, kept = 0, 0
    else:
        if length < _HEAD_BYTES:
            return False
        _copy(data, at, row.head1, 0, _HEAD_BYTES)
        head = row.head2
        if row.head1[0] != 1 or row.head1[1] != 1 or row.head4[_EXTRAS] != 0:
            return False
        if head[_DIMENSION] != k or head[_EPOCHS] != p:
            return False
        if head[_ENTRIES] > rules.history or head[_KEYS] > rules.keys or head[_KEY_HEAD] >= rules.keys:
            return False
        number = _class_of(classes, head[_ENTRIES], head[_KEYS])
        held, kept = classes[number, 0], classes[number, 1]
        if length != _HEAD_BYTES + 4 * k + 8 * p + 20 * held + 16 * kept:
            return False
        at += _HEAD_BYTES
        _copy(data, at, row.vector.view(np.uint8), 0, 4 * k)
        at += 4 * k + 8 * p
        _copy(data, at, row.item.view(np.uint8), 0, 8 * held)
        _copy(data, at + 8 * held, row.time.view(np.uint8), 0, 8 * held)
        _copy(data, at + 16 * held, row.strength.view(np.uint8), 0, 4 * held)
        at += 20 * held
        _copy(data, at, row.request.view(np.uint8), 0, 8 * kept)
        _copy(data, at + 8 * kept, row.fingerprint.view(np.uint8), 0, 4 * kept)
        _copy(data, at + 12 * kept, row.second.view(np.uint8), 0, 4 * kept)
    _fill(row.item, held, 0)
    _fill(row.time, held, 0)
    _fill(row.strength, held, 0)
    _fill(row.request, kept, 0)
    _fill(row.fingerprint, kept, 0)
    _fill(row.second, kept, 0)
    return True


@_jit()
def _store(row: _Row, epochs: Any, out: Any, at: int, classes: Any, rules: Rules) -> int:
    """Write a row's bytes; returns where they end."""
    number = _class_of(classes, row.head2[_ENTRIES], row.head2[_KEYS])
    held, kept = classes[number, 0], classes[number, 1]
    _copy(row.head1, 0, out, at, _HEAD_BYTES)
    at += _HEAD_BYTES
    _copy(row.vector.view(np.uint8), 0, out, at, 4 * rules.dimension)
    at += 4 * rules.dimension
    _copy(epochs, 0, out, at, 8 * rules.epochs)
    at += 8 * rules.epochs
    _copy(row.item.view(np.uint8), 0, out, at, 8 * held)
    _copy(row.time.view(np.uint8), 0, out, at + 8 * held, 8 * held)
    _copy(row.strength.view(np.uint8), 0, out, at + 16 * held, 4 * held)
    at += 20 * held
    _copy(row.request.view(np.uint8), 0, out, at, 8 * kept)
    _copy(row.fingerprint.view(np.uint8), 0, out, at + 8 * kept, 4 * kept)
    _copy(row.second.view(np.uint8), 0, out, at + 12 * kept, 4 * kept)
    return at + 16 * kept


# --- fold: the twin of steps.fold, to the bit ---------------------------------------------------------------------


@_jit()
def _decay(age_ms: Any, half_life_ms: int) -> Any:
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


@_jit()
def _judge(row: _Row, event: Any, rules: Rules) -> int:
    """What becomes of one event, before it changes anything."""
    request = np.uint64(event[REQUEST])
    oldest = (row.head8[_EVENT_TIME] - rules.keys_window_ms) // 1000
    for slot in range(rules.keys):
        if row.request[slot] == request and np.int64(row.second[slot]) >= oldest:
            return DUPLICATE if row.fingerprint[slot] == np.uint32(event[FINGERPRINT]) else CONFLICT
    if event[TIMESTAMP] < event[RECEIVED] - rules.window_ms:
        return OUTSIDE_WINDOW
    if event[TIMESTAMP] < event[RECEIVED] - rules.lateness_ms:
        return LATE
    return APPLIED


@_jit()
def _victim(row: _Row, entries: int, item: Any, at: Any) -> int:
    """The slot of the smallest (time, hash), or -1 where the newcomer is smaller."""
    oldest, lowest, slot = at, item, -1
    for i in range(entries):
        if row.time[i] < oldest or (row.time[i] == oldest and row.item[i] < lowest):
            oldest, lowest, slot = row.time[i], row.item[i], i
    return slot


@_jit()
def _weigh_in(row: _Row, item: Any, weight: float, at: int, rules: Rules) -> None:
    """The twin of `history.fold_event`."""
    entries = np.int64(row.head2[_ENTRIES])
    for slot in range(entries):
        if row.item[slot] == item:
            old, time = np.float64(row.strength[slot]), row.time[slot]
            factor = _decay(abs(at - time), rules.half_life_ms)
            total = old * factor + weight if at >= time else old + weight * factor
            row.strength[slot] = np.float32(min(total, MAX_STRENGTH))
            row.time[slot] = max(at, time)
            return
    slot = entries
    if entries >= rules.history:
        slot = _victim(row, entries, item, at)
        if slot < 0:
            return
    else:
        row.head2[_ENTRIES] = entries + 1
    row.item[slot], row.time[slot] = item, at
    row.strength[slot] = np.float32(min(weight, MAX_STRENGTH))


@_jit()
def _take(row: _Row, event: Any, weight: float, rules: Rules) -> None:
    """Apply one event: its key, the head, the history."""
    at = event[TIMESTAMP]
    head2, head8 = row.head2, row.head8
    slot = np.int64(head2[_KEY_HEAD])
    row.request[slot] = np.uint64(event[REQUEST])
    row.fingerprint[slot] = np.uint32(event[FINGERPRINT])
    row.second[slot] = np.uint32(at // 1000)
    head2[_KEY_HEAD] = (slot + 1) % rules.keys
    head2[_KEYS] = min(np.int64(head2[_KEYS]) + 1, rules.keys)
    head8[_EVENT_TIME] = max(head8[_EVENT_TIME], at)
    head8[_SOURCE_NEXT] = event[OFFSET] + 1
    head8[_EVENTS] += 1
    day, today = np.int64(row.head4[_CAP_DAY]), at // _DAY_MS
    row.head4[_CAP_COUNT] = 1 if today > day else np.int64(row.head4[_CAP_COUNT]) + (1 if today == day else 0)
    row.head4[_CAP_DAY] = max(day, today)
    _weigh_in(row, np.uint64(event[ITEM]), weight, at, rules)


@_jit()
def _confidence(strength: float, rules: Rules) -> float:
    """The twin of `weigh.confidence_array`, but for the last bit of log1p."""
    if rules.confidence == LOG:
        confidence = 1.0 + rules.alpha * math.log1p(strength)
    elif rules.confidence == LINEAR:
        confidence = 1.0 + rules.alpha * strength
    else:
        confidence = max(1.0, strength)
    return min(confidence, MAX_CONFIDENCE)


@_jit()
def _decays(ages: Any, count: int, half_life_ms: int, out: Any, bits: Any) -> None:
    """`_decay` of the first `count` ages, bit for bit, without a branch."""
    if half_life_ms == 0:
        _fill(out[:count], 0, 1.0)
        return
    half_life, power = float(half_life_ms), bits.view(np.float64)
    for i in range(count):
        x = -(float(ages[i]) / half_life)
        whole = math.floor(max(x, -1000.0))
        f = max(x, -1000.0) - whole
        bits[i] = 0 if x <= -1000.0 else (np.int64(whole) + 1023) << 52
        high = (((((((_C15 * f + _C14) * f + _C13) * f + _C12) * f + _C11) * f + _C10) * f + _C9) * f + _C8) * f + _C7
        out[i] = ((((((high * f + _C6) * f + _C5) * f + _C4) * f + _C3) * f + _C2) * f + _C1) * f + _C0
    for i in range(count):
        out[i] *= power[i]


@_jit()
def _log1ps(values: Any, count: int, bits: Any) -> None:
    """log(1 + x) of the first `count` values, zero or more, to a few units of the last place of 1 + x."""
    number = bits.view(np.float64)
    for i in range(count):
        number[i] = values[i] + 1.0
    for i in range(count):
        # 2^e * m with m between the root of a half and the root of two; log m by the series of artanh.
        e = (bits[i] + _HALF_ROOT) >> 52
        bits[i] -= e << 52
        values[i] = np.float64(e)
    for i in range(count):
        t = (number[i] - 1.0) / (number[i] + 1.0)
        s = t * t
        high = (((s / 19 + 1.0 / 17) * s + 1.0 / 15) * s + 1.0 / 13) * s + 1.0 / 11
        values[i] = values[i] * _LN2 + 2.0 * t * (
            ((((high * s + 1.0 / 9) * s + 1.0 / 7) * s + 0.2) * s + 1.0 / 3) * s + 1.0
        )


@_jit()
def _confidences(row: _Row, out: Any, ages: Any, bits: Any, rules: Rules) -> Any:
    """The confidence of each entry as of the newest one; returns how many there are."""
    entries = np.int64(row.head2[_ENTRIES])
    now = 0
    for i in range(entries):
        now = max(now, row.time[i])
    for i in range(entries):
        ages[i] = now - row.time[i]
    _decays(ages, entries, rules.half_life_ms, out, bits)
    for i in range(entries):
        out[i] *= np.float64(row.strength[i])
    if rules.confidence == LOG:
        _log1ps(out, entries, bits)
    if rules.confidence == RAW:
        for i in range(entries):
            out[i] = min(max(1.0, out[i]), MAX_CONFIDENCE)
    else:
        for i in range(entries):
            out[i] = min(1.0 + rules.alpha * out[i], MAX_CONFIDENCE)
    return entries


# --- solve: conjugate gradients over the user's own rows, see streamer.factors.gradients ---------------------------


@_jit()
def _find(hashes: Any, values: Any, item: Any) -> Any:
    """The item's index in the space, -1 where it is unknown."""
    mask = np.uint64(hashes.size - 1)
    slot = item & mask
    while hashes[slot] != 0:
        if hashes[slot] == item:
            return values[slot]
        slot = (slot + np.uint64(1)) & mask
    return -1


@_jit(fastmath=_FAST)
def _dot(a: Any, b: Any) -> Any:
    total = np.float32(0)
    for j in range(a.size):
        total += a[j] * b[j]
    return total


@_jit(fastmath=_FAST)
def _normal(rows: Any, count: int, d: Any, q: Any, x: Any, out: Any) -> None:
    """W'(q - D W x) of the first `count` rows, a multiple of four."""
    _fill(out, 0, 0)
    for i in range(0, count, _UNROLL):
        a, b, c, e = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
        s, t, u, v = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for j in range(x.size):
            s += a[j] * x[j]
            t += b[j] * x[j]
            u += c[j] * x[j]
            v += e[j] * x[j]
        s, t = q[i] - d[i] * s, q[i + 1] - d[i + 1] * t
        u, v = q[i + 2] - d[i + 2] * u, q[i + 3] - d[i + 3] * v
        for j in range(x.size):
            out[j] += s * a[j] + t * b[j] + u * c[j] + v * e[j]


@_jit(fastmath=_FAST)
def _subtract_product(matrix: Any, x: Any, out: Any) -> None:
    """Subtract matrix' x; nothing where the matrix is empty."""
    for i in range(len(matrix)):
        row = matrix[i]
        for j in range(x.size):
            out[j] -= x[i] * row[j]


class _Space(NamedTuple):
    """What the solve reads of the space (`ItemSpace.tables`), and the remainder, (0, k) for none."""

    hashes: Any
    values: Any
    whitened: Any
    leverage: Any
    lower: Any
    inverse: Any
    remainder: Any


class _Work(NamedTuple):
    """Scratch of one solve, reused for every user: by history entry, by gathered row, by dimension."""

    ages: Any
    bits: Any
    confidence: Any
    found: Any
    rows: Any
    d: Any
    q: Any
    zero: Any
    y: Any
    r: Any
    p: Any
    z: Any
    wide: Any
    exact: Any


@_jit(fastmath=_FAST)
def _gradients(work: _Work, count: int, remainder: Any, rules: Rules) -> Any:
    """Solve in place in `work.y`; returns the steps taken and the relative residual, squared."""
    rows, d, y, r, p, z = work.rows, work.d, work.y, work.r, work.p, work.z
    _normal(rows, count, d, work.q, y, r)
    for j in range(y.size):
        r[j] -= y[j]
    _subtract_product(remainder, y, r)
    _copy(r, 0, p, 0, r.size)
    rho, size, bound = _dot(r, r), _dot(y, y), np.float32(rules.tolerance * rules.tolerance)
    step = 0
    while step < rules.max_steps and not rho <= bound * size:
        step += 1
        _normal(rows, count, d, work.zero, p, z)
        _subtract_product(remainder, p, z)
        for j in range(y.size):
            z[j] = p[j] - z[j]
        alpha = rho / max(_dot(p, z), _TINY)
        for j in range(y.size):
            r[j] -= alpha * z[j]
            y[j] += alpha * p[j]
        before, rho = rho, _dot(r, r)
        beta = rho / max(before, _TINY)
        for j in range(y.size):
            p[j] = r[j] + beta * p[j]
        size = _dot(y, y)
    return step, rho / max(size, _TINY)


@_jit(fastmath=_FAST)
def _triangle(lower: Any, x: Any, out: Any) -> None:
    """Set `out` to lower' x, with zeros above the diagonal of `lower`; four rows at a time."""
    _fill(out, 0, 0)
    k = x.size
    for i in range(0, k - k % _UNROLL, _UNROLL):
        a, b, c, e = lower[i], lower[i + 1], lower[i + 2], lower[i + 3]
        s, t, u, v = x[i], x[i + 1], x[i + 2], x[i + 3]
        for j in range(i + _UNROLL):
            out[j] += s * a[j] + t * b[j] + u * c[j] + v * e[j]
    for i in range(k - k % _UNROLL, k):
        a, s = lower[i], x[i]
        for j in range(i + 1):
            out[j] += s * a[j]


@_jit(fastmath=_FAST)
def _whiten(vector: Any, lower: Any, y: Any) -> None:
    """Set y to L' x; zero where that is not finite."""
    _triangle(lower, vector, y)
    if not _dot(y, y) <= np.float32(3e38):
        _fill(y, 0, 0)


@_jit(fastmath=_FAST)
def _unwhiten(y: Any, inverse: Any, wide: Any, exact: Any, vector: Any) -> float:
    """Set `vector` to L^-T y, multiplied in float64 and rounded; returns its squared length."""
    for i in range(y.size):
        wide[i] = np.float64(y[i])
    _triangle(inverse, wide, exact)
    total = 0.0
    for i in range(y.size):
        vector[i] = np.float32(exact[i])
        total += np.float64(vector[i]) * np.float64(vector[i])
    return total


@_jit()
def _gather(row: _Row, entries: int, space: _Space, work: _Work, rules: Rules) -> Any:
    """Find the history in the space and fetch its rows; returns how many are known, and whether it is easy."""
    k, known, trace, peak = rules.dimension, 0, np.float32(0), np.float32(0)
    for i in range(entries):
        index = _find(space.hashes, space.values, row.item[i])
        if index >= 0:
            work.found[known] = index
            work.d[known] = np.float32(work.confidence[i] - 1.0)
            work.q[known] = work.d[known] + np.float32(rules.right)
            load = work.d[known] * space.leverage[index]
            trace += load
            peak = max(peak, load)
            known += 1
    easy = trace <= rules.max_trace and peak <= rules.max_peak
    if easy:
        for i in range(known):
            _copy(space.whitened[work.found[i]], 0, work.rows[i], 0, k)
        # Rows of no weight make the count a multiple of what is unrolled.
        for i in range(known, (known + _UNROLL - 1) // _UNROLL * _UNROLL):
            _fill(work.rows[i], 0, 0)
            work.d[i], work.q[i] = 0, 0
    return known, easy


@_jit()
def _solve(row: _Row, entries: int, average: Any, space: _Space, work: _Work, rules: Rules, facts: Any) -> float:
    """Set the row's vector; returns its squared length, or -1 where that is not for the kernel to do."""
    known, easy = _gather(row, entries, space, work, rules)
    if known == 0:
        _copy(average, 0, row.vector, 0, average.size)
        square = 0.0
        for j in range(average.size):
            square += np.float64(average[j]) * np.float64(average[j])
        facts[F_COLD] += 1
        return square
    if not easy:
        return -1.0
    if row.head8[_GENERATION] == rules.generation:
        _whiten(row.vector, space.lower, work.y)
    else:
        _fill(work.y, 0, 0)
    count = (known + _UNROLL - 1) // _UNROLL * _UNROLL
    steps, residual = _gradients(work, count, space.remainder, rules)
    if not residual <= np.float32(rules.tolerance * rules.tolerance):
        return -1.0
    square = _unwhiten(work.y, space.inverse, work.wide, work.exact, row.vector)
    if not square <= rules.norm_cap * rules.norm_cap * _CLOSE:
        return -1.0
    facts[F_KNOWN] += known
    facts[F_STEPS] = max(facts[F_STEPS], np.float64(steps))
    facts[F_RESIDUAL] = max(facts[F_RESIDUAL], np.float64(residual))
    return square


# --- one batch ----------------------------------------------------------------------------------------------------


@_jit()
def _room(rules: Rules) -> Any:
    """An empty row, and scratch."""
    k, history, keys = rules.dimension, rules.history, rules.keys
    limit = (history + _UNROLL - 1) // _UNROLL * _UNROLL
    head = np.zeros(_HEAD_BYTES // 8, np.int64)
    row = _Row(
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
    work = _Work(
        np.zeros(history, np.int64),
        np.zeros(history, np.int64),
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
        np.zeros(k),
        np.zeros(k),
    )
    return row, work


@_jit()
def _by_user(events: Any, users: int) -> Any:
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


@_jit()
def _fold(row: _Row, events: Any, weights: Any, mine: Any, outcome: Any, rules: Rules) -> int:
    """Judge and apply the events `mine` of one user; returns the newest one applied, -1 for none."""
    newest = -1
    for i in range(mine.size):
        e = mine[i]
        outcome[e] = _judge(row, events[e], rules)
        if outcome[e] == APPLIED:
            _take(row, events[e], weights[e], rules)
            newest = e
    return newest


@_jit()
def _weigh_events(
    row: _Row, entries: int, work: _Work, events: Any, weights: Any, mine: Any, outcome: Any, out: Any, rules: Rules
) -> None:
    """The confidence of each applied event's item, for its signal."""
    for i in range(mine.size):
        e = mine[i]
        if outcome[e] == APPLIED:
            # An entry that the same batch evicted again has no slot left: its event weighs as a lone one.
            out[e] = _confidence(weights[e], rules)
            item = np.uint64(events[e, ITEM])
            for slot in range(entries):
                if row.item[slot] == item:
                    out[e] = work.confidence[slot]
                    break


@_jit()
def _say(row: _Row, user: int, newest: int, end: int, average: Any, numbers: Any) -> None:
    same = 1
    for j in range(average.size):
        if row.vector[j] != average[j]:
            same = 0
            break
    numbers[N_USER], numbers[N_NEWEST], numbers[N_END], numbers[N_AVERAGE] = user, newest, end, same
    numbers[N_VERSION], numbers[N_EVENTS] = row.head8[_VERSION], row.head8[_EVENTS]
    numbers[N_EVENT_TIME], numbers[N_SOURCE_NEXT] = row.head8[_EVENT_TIME], row.head8[_SOURCE_NEXT]


_u1, _i4, _i8, _u8, _f4, _f8 = types.uint8, types.int32, types.int64, types.uint64, types.float32, types.float64
_SIGNATURE = _i8(
    # rules, as a plain tuple: numba takes it apart in C
    types.Tuple((_i8,) * 12),
    types.Tuple((_f8,) * 5),
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


@_jit(_SIGNATURE)
def refresh(
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
        hashes .. inverse, remainder    see `_Space`
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
    rules = Rules(
        whole[0], whole[1], whole[2], whole[3], whole[4], whole[5], whole[6], whole[7], whole[8], whole[9], whole[10],
        whole[11], real[0], real[1], real[2], real[3], real[4],
    )  # fmt: skip
    space = _Space(hashes, values, whitened, leverage, lower, inverse, remainder)
    row, work = _room(rules)
    order, first = _by_user(events, lengths.size)
    weighed, place = np.zeros(len(events)), np.zeros(lengths.size, np.int64)
    _fill(facts, 0, 0.0)
    touched, at, end = 0, 0, 0
    for user in range(lengths.size):
        length, mine = lengths[user], order[first[user] : first[user + 1]]
        start, at = at, at + max(length, 0)
        plain = length != STRANGER and _load(row, data, start, length, classes, rules)
        for i in range(mine.size):
            plain = plain and events[mine[i], KIND] == 0
        state[user], newest, square, entries = UNTOUCHED, -1, 0.0, 0
        if plain:
            newest = _fold(row, events, weights, mine, outcome, rules)
        if newest >= 0:
            entries = _confidences(row, work.confidence, work.ages, work.bits, rules)
            square = _solve(row, entries, average, space, work, rules, facts)
        if not plain or square < 0:
            state[user] = NOT_PLAIN
            facts[F_NOT_PLAIN] += 1
            for i in range(mine.size):
                outcome[mine[i]] = OTHER
        elif newest >= 0:
            state[user] = TOUCHED
            row.head8[_GENERATION] = rules.generation
            row.head8[_VERSION] += 1
            end = _store(row, epochs, out, end, classes, rules)
            _copy(row.vector, 0, vectors[touched], 0, rules.dimension)
            norms[touched] = math.sqrt(square)
            _say(row, user, events[newest, POSITION], end, average, numbers[touched])
            _weigh_events(row, entries, work, events, weights, mine, outcome, weighed, rules)
            place[user] = touched
            touched += 1
    count = 0
    for e in range(len(events)):
        facts[F_APPLIED + outcome[e]] += 1
        if outcome[e] == APPLIED:
            applied[count], owner[count], confidence[count] = e, place[events[e, USER]], weighed[e]
            count += 1
    return touched
