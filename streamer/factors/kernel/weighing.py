"""The confidence of each entry of a history, many at a time: the twin of `streamer.factors.weigh`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from streamer.factors.kernel.jit import fill, jit
from streamer.factors.kernel.rows import H_ENTRIES, Row
from streamer.factors.kernel.rules import APPLIED, LINEAR, LOG, RAW, Rules
from streamer.factors.packed import ITEM
from streamer.factors.weigh import EXP2, MAX_CONFIDENCE

_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12, _C13, _C14, _C15 = EXP2
_LN2 = math.log(2.0)
# Added to the bits of a number, it carries into the exponent from the root of two on; minus the exponent of 1.
_HALF_ROOT = (1 << 52) - (int(np.float64(math.sqrt(2.0)).view(np.int64)) & ((1 << 52) - 1)) - (1023 << 52)


@jit()
def confidence(strength: float, rules: Rules) -> float:
    """The twin of `weigh.confidence_array`, but for the last bit of log1p."""
    if rules.confidence == LOG:
        confidence = 1.0 + rules.alpha * math.log1p(strength)
    elif rules.confidence == LINEAR:
        confidence = 1.0 + rules.alpha * strength
    else:
        confidence = max(1.0, strength)
    return min(confidence, MAX_CONFIDENCE)


@jit()
def decays(ages: Any, count: int, half_life_ms: float, out: Any, bits: Any) -> None:
    """`_decay` of the first `count` ages, bit for bit, without a branch."""
    if half_life_ms == 0:
        fill(out[:count], 0, 1.0)
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


@jit()
def log1ps(values: Any, count: int, bits: Any) -> None:
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


@jit()
def fade(row: Row, entries: int, work: Any, rules: Rules) -> None:
    """Recency: what other entries have come after counts for less."""
    for i in range(entries):
        newer = np.int64(0)
        for j in range(entries):
            newer += np.int64(row.time[j] > row.time[i])
        work.ages[i] = newer
    decays(work.ages, entries, rules.recency_entries, work.share, work.bits)
    for i in range(entries):
        work.confidence[i] = 1.0 + (work.confidence[i] - 1.0) * work.share[i]


@jit()
def confidences(row: Row, work: Any, rules: Rules) -> Any:
    """The confidence of each entry as of the newest one, into `work.confidence`; returns how many there are."""
    entries = np.int64(row.head2[H_ENTRIES])
    out, ages, bits = work.confidence, work.ages, work.bits
    now = 0
    for i in range(entries):
        now = max(now, row.time[i])
    for i in range(entries):
        ages[i] = now - row.time[i]
    decays(ages, entries, rules.half_life_ms, out, bits)
    for i in range(entries):
        out[i] *= np.float64(row.strength[i])
    if rules.confidence == LOG:
        log1ps(out, entries, bits)
    if rules.confidence == RAW:
        for i in range(entries):
            out[i] = min(max(1.0, out[i]), MAX_CONFIDENCE)
    else:
        for i in range(entries):
            out[i] = min(1.0 + rules.alpha * out[i], MAX_CONFIDENCE)
    if rules.recency_entries > 0:
        fade(row, entries, work, rules)
    return entries


@jit()
def weigh_events(
    row: Row, entries: int, held: Any, events: Any, weights: Any, mine: Any, outcome: Any, out: Any, rules: Rules
) -> None:
    """The confidence of each applied event's item, for its signal; `held`: of each entry."""
    for i in range(mine.size):
        e = mine[i]
        if outcome[e] == APPLIED:
            # An entry that the same batch evicted again has no slot left: its event weighs as a lone one.
            out[e] = confidence(weights[e], rules)
            item = np.uint64(events[e, ITEM])
            for slot in range(entries):
                if row.item[slot] == item:
                    out[e] = held[slot]
                    break
