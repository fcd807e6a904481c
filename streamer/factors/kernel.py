"""The plain user in one compiled pass: row bytes in, events folded, vector solved, row bytes out. Needs numba.

A user is *plain* where nothing rare happens: a well-formed row without extras, positive events only, a system that
conjugate gradients solve, a finite vector within the norm cap. `refresh` leaves everyone else alone and says so; the
numpy path (`steps.refresh`) takes them, and is what this module is tested against:

    history, keys, counts, outcomes   the same bytes: no fast maths, no fused multiply-add
    vector                            both within the promised error of the exact one
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
from streamer.factors.solve import MAX_PEAK, MAX_STEPS, MAX_TRACE
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
_MAX_PEAK, _MAX_TRACE = np.float32(MAX_PEAK), np.float32(MAX_TRACE)
_UNROLL = 4

# Everything but "no NaN, no infinity": bad numbers must show.
_FAST = {"contract", "reassoc", "nsz", "arcp"}


def _jit(signature: Any = None, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile, with the machine code kept beside this file or in the user's cache; without where neither is writable."""

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
    alpha: float
    norm_cap: float
    tolerance: float


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
def _decay(age_ms: int, half_life_ms: int) -> float:
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
def _victim(row: _Row, entries: int, item: Any, at: int) -> int:
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
        values[i] = values[i] * _LN2 + 2.0 * t * (((((high * s + 1.0 / 9) * s + 1.0 / 7) * s + 0.2) * s + 1.0 / 3) * s + 1.0)


@_jit()
def _confidences(row: _Row, out: Any, ages: Any, bits: Any, rules: Rules) -> int:
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
def _find(hashes: Any, values: Any, item: Any) -> int:
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


@_jit(fastmath=_FAST)
def _gradients(
    rows: Any, count: int, d: Any, q: Any, zero: Any, y: Any, r: Any, p: Any, z: Any, remainder: Any, tolerance: float
) -> tuple[int, Any]:
    """Solve in place in `y`; returns the steps taken and the relative residual."""
    _normal(rows, count, d, q, y, r)
    for j in range(y.size):
        r[j] -= y[j]
    _subtract_product(remainder, y, r)
    _copy(r, 0, p, 0, r.size)
    rho, size, bound = _dot(r, r), _dot(y, y), np.float32(tolerance * tolerance)
    step = 0
    while step < MAX_STEPS and not rho <= bound * size:
        step += 1
        _normal(rows, count, d, zero, p, z)
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
    """out = lower' x, with zeros above the diagonal of `lower`; four rows at a time."""
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
    """y = L' x; zero where that is not finite."""
    _triangle(lower, vector, y)
    if not _dot(y, y) <= np.float32(3e38):
        _fill(y, 0, 0)


@_jit(fastmath=_FAST)
def _unwhiten(y: Any, inverse: Any, wide: Any, exact: Any, vector: Any) -> float:
    """x = L^-T y in float64, rounded; returns its squared length."""
    for i in range(y.size):
        wide[i] = np.float64(y[i])
    _triangle(inverse, wide, exact)
    total = 0.0
    for i in range(y.size):
        vector[i] = np.float32(exact[i])
        total += np.float64(vector[i]) * np.float64(vector[i])
    return total


# --- one batch ----------------------------------------------------------------------------------------------------

_u1, _i4, _i8, _u8, _f4, _f8 = types.uint8, types.int32, types.int64, types.uint64, types.float32, types.float64
_SIGNATURE = _i8(
    # rules, as a plain tuple: numba takes it apart in C
    types.UniTuple(_i8, 11),
    types.UniTuple(_f8, 3),
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

    Args:
        whole, real: `Rules`, whole numbers and real ones. classes: size classes (H, R), ascending.
        average: (k,) the vector of a user without a known item.
        epochs: bytes of the item epochs. hashes, values: the space's table. whitened, leverage, lower: the space's.
        inverse: (k, k) L^-1, row by row. remainder: (k, k) R, or (0, k) for none.
        data, lengths: the rows end to end, and how long each is; `NO_ROW` and `STRANGER` have none.
        events, weights: the events (`packed`), and their weights.
        out: receives the rows, end to end; it and all that follow are written to, and may be longer than what is
            written. vectors (T, k), norms (T,), numbers (T, NUMBERS): of touched users, ascending.
        state: (B,) what became of each user. outcome: (E,) what became of each event.
        applied, owner, confidence: (A,) the applied events in log order, where their users are among the touched,
            and the confidences of their items. facts: (FACTS,).
    """
    rules = Rules(
        whole[0], whole[1], whole[2], whole[3], whole[4], whole[5], whole[6], whole[7], whole[8], whole[9], whole[10],
        real[0], real[1], real[2],
    )  # fmt: skip
    k, limit = rules.dimension, (rules.history + _UNROLL - 1) // _UNROLL * _UNROLL
    head = np.zeros(8, np.int64)
    row = _Row(
        head.view(np.uint8),
        head.view(np.uint16),
        head.view(np.uint32),
        head,
        np.zeros(k, np.float32),
        np.zeros(rules.history, np.uint64),
        np.zeros(rules.history, np.int64),
        np.zeros(rules.history, np.float32),
        np.zeros(rules.keys, np.uint64),
        np.zeros(rules.keys, np.uint32),
        np.zeros(rules.keys, np.uint32),
    )
    entry, found = np.empty(rules.history), np.empty(limit, np.int64)
    ages, bits = np.empty(rules.history, np.int64), np.empty(rules.history, np.int64)
    rows, d, q, zero = (
        np.zeros((limit, k), np.float32),
        np.zeros(limit, np.float32),
        np.zeros(limit, np.float32),
        np.zeros(limit, np.float32),
    )
    y, r, p, z = np.zeros(k, np.float32), np.zeros(k, np.float32), np.zeros(k, np.float32), np.zeros(k, np.float32)
    wide, exact, weighed, place = np.zeros(k), np.zeros(k), np.zeros(len(events)), np.zeros(lengths.size, np.int64)
    _fill(facts, 0, 0.0)
    longest = rules.norm_cap * rules.norm_cap * _CLOSE

    # Events by user, each user's in log order.
    users, total = lengths.size, len(events)
    first = np.zeros(users + 1, np.int64)
    for e in range(total):
        first[events[e, USER] + 1] += 1
    for u in range(users):
        first[u + 1] += first[u]
    order, filled = np.empty(total, np.int64), first[:users].copy()
    for e in range(total):
        user = events[e, USER]
        order[filled[user]] = e
        filled[user] += 1

    touched, at, end = 0, 0, 0
    for user in range(users):
        length = lengths[user]
        start, low, high = at, first[user], first[user + 1]
        at += max(length, 0)
        state[user] = NOT_PLAIN
        plain = length != STRANGER and _load(row, data, start, length, classes, rules)
        for i in range(low, high):
            plain = plain and events[order[i], KIND] == 0
            outcome[order[i]] = OTHER
        if not plain:
            facts[F_NOT_PLAIN] += 1
            continue
        newest = np.int64(-1)
        for i in range(low, high):
            e = order[i]
            outcome[e] = _judge(row, events[e], rules)
            if outcome[e] == APPLIED:
                _take(row, events[e], weights[e], rules)
                newest = e
        if newest < 0:
            state[user] = UNTOUCHED
            continue

        # Gather what the space knows of the history.
        entries, known = _confidences(row, entry, ages, bits, rules), 0
        trace, peak = np.float32(0), np.float32(0)
        for i in range(entries):
            index = _find(hashes, values, row.item[i])
            if index >= 0:
                d[known] = np.float32(entry[i] - 1.0)
                q[known] = d[known] + np.float32(rules.right)
                found[known] = index
                load = d[known] * leverage[index]
                trace += load
                peak = max(peak, load)
                known += 1
        if known == 0:
            _copy(average, 0, row.vector, 0, k)
            square = 0.0
            for j in range(k):
                square += np.float64(average[j]) * np.float64(average[j])
            facts[F_COLD] += 1
        else:
            steps, residual, square, solved = 0, np.float32(0), 0.0, False
            if trace <= _MAX_TRACE and peak <= _MAX_PEAK:
                for i in range(known):
                    _copy(whitened[found[i]], 0, rows[i], 0, k)
                count = known
                while count % _UNROLL:
                    _fill(rows[count], 0, 0)
                    d[count], q[count] = 0, 0
                    count += 1
                if head[_GENERATION] == rules.generation:
                    _whiten(row.vector, lower, y)
                else:
                    _fill(y, 0, 0)
                steps, residual = _gradients(rows, count, d, q, zero, y, r, p, z, remainder, rules.tolerance)
                if residual <= np.float32(rules.tolerance * rules.tolerance):
                    square = _unwhiten(y, inverse, wide, exact, row.vector)
                    solved = square <= longest
            if not solved:
                for i in range(low, high):
                    outcome[order[i]] = OTHER
                facts[F_NOT_PLAIN] += 1
                continue
            facts[F_STEPS] = max(facts[F_STEPS], np.float64(steps))
            facts[F_RESIDUAL] = max(facts[F_RESIDUAL], np.float64(residual))
        facts[F_KNOWN] += known

        # Write what came of it.
        head[_GENERATION] = rules.generation
        head[_VERSION] += 1
        end = _store(row, epochs, out, end, classes, rules)
        _copy(row.vector, 0, vectors[touched], 0, k)
        norms[touched] = math.sqrt(square)
        same = 1
        for j in range(k):
            if row.vector[j] != average[j]:
                same = 0
                break
        numbers[touched, N_USER] = user
        numbers[touched, N_NEWEST] = events[newest, POSITION]
        numbers[touched, N_VERSION] = head[_VERSION]
        numbers[touched, N_EVENTS] = head[_EVENTS]
        numbers[touched, N_EVENT_TIME] = head[_EVENT_TIME]
        numbers[touched, N_SOURCE_NEXT] = head[_SOURCE_NEXT]
        numbers[touched, N_END] = end
        numbers[touched, N_AVERAGE] = same
        place[user] = touched
        touched += 1
        state[user] = TOUCHED
        for i in range(low, high):
            e = order[i]
            if outcome[e] == APPLIED:
                # An entry that the same batch evicted again has no slot left: its event weighs as a lone one.
                weighed[e] = _confidence(weights[e], rules)
                item = np.uint64(events[e, ITEM])
                for slot in range(entries):
                    if row.item[slot] == item:
                        weighed[e] = entry[slot]
                        break

    count = 0
    for e in range(total):
        facts[F_APPLIED + outcome[e]] += 1
        if outcome[e] == APPLIED:
            applied[count], owner[count], confidence[count] = e, place[events[e, USER]], weighed[e]
            count += 1
    return touched
