"""What every part of the kernel shares: how it is compiled, what it is told, and the codes of what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numba import njit

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

_FAST = {"contract", "reassoc", "nsz", "arcp"}  # not "no NaN, no infinity": bad numbers must show


def jit(signature: Any = None, **options: Any) -> Callable[[Callable[..., Any]], Any]:
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


# Loops over two slices become wide moves; slice assignments and sums of indexes do not.


@jit()
def copy(source: Any, at: int, target: Any, to: int, count: int) -> None:
    a, b = source[at : at + count], target[to : to + count]
    for i in range(count):
        b[i] = a[i]


@jit()
def fill(target: Any, start: int, value: Any) -> None:
    part = target[start:]
    for i in range(part.size):
        part[i] = value
