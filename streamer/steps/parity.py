"""Is what was just published what a fresh exact solve gives? One user of a batch, now and then.

    |x - x_fresh| / |x_fresh|

x is the row's vector, with its bias if it has one, x_fresh the float64 Cholesky solve over the same row's history
against the item vectors that the worker has in memory: those that the row was solved with, since both happen within
one batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.layouts import decode_user_rows
from streamer.factors.explicit import solve_users, weights_now
from streamer.factors.guard import guard
from streamer.factors.weigh import confidence_now, inside_window
from streamer.steps.items import Items
from streamer.steps.refresh import Generation, exact

Float32Array = npt.NDArray[np.float32]


def parity_error(row: bytes, items: Items, generation: Generation) -> float | None:
    """The relative error of a row's vector; None where there is no exact solve to compare it with."""
    rows = decode_user_rows([row], generation.shape)
    entries, policy = int(rows.head["entries"][0]), generation.policy
    used, strength, time = np.ones(entries, bool), rows.strength[0, :entries], rows.time[0, :entries]
    inside = inside_window(time, int(rows.head["event_time"][0]), policy)
    index = np.where(inside, items.space.lookup(rows.item[0, :entries]), np.int32(-1))
    if not (index >= 0).any():
        return relative_error(rows.vector[0], generation.average)
    if generation.mean is not None:
        rating, weight = strength.astype(np.float64)[None], weights_now(time, used, policy)[None]
        [solved], _ = solve_users(items.space.vectors, index[None], rating, weight, generation.mean, policy)
    else:
        solved = exact(items, index, confidence_now(strength, time, used, policy), policy.rhs)
    checked = guard(solved[None, :], policy.norm_cap)
    # Without a finite solution the last good vector stays, and `nonfinite_total` says so.
    return relative_error(rows.vector[0], checked.vectors[0]) if checked.finite[0] else None


def relative_error(vector: Float32Array, fresh: Float32Array) -> float:
    """|a - b| / |b|, infinite where a is not finite; the absolute difference where b is zero."""
    if not np.isfinite(vector).all():
        return float("inf")
    difference = float(np.linalg.norm(vector.astype(np.float64) - fresh.astype(np.float64)))
    length = float(np.linalg.norm(fresh.astype(np.float64)))
    return difference / length if length else difference
