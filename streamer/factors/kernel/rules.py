"""What every part of the kernel shares: what it is told, and the codes of what it says. Needs no numba."""

from __future__ import annotations

from typing import NamedTuple

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
    F_KNOWN,  # history entries inside of the window that the space knows
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
    max_shrink: float
    recency_entries: float
    ridge: float
    ridge_nu: float
    ridge_offset: float
    ridge_floor: float
