"""Explicit ratings: a user's vector and bias from what the user has rated, and an item's next step.

    r̂ = μ + b_u + b_i + x.y        μ the generation's mean

A row of either side is a vector with its bias behind it: a user's [x, b_u], an item's [y, b_i]. Rows, signals and the
replica carry it as one vector of k + 1 numbers. Against fixed items a user's row is a ridge regression over the items
that the user has rated, and over nothing else::

    [x, b_u] = argmin  sum w (r - μ - b_i - b_u - x.y)^2 + ridge |x|^2 + ridge_bias b_u^2

    e = r - μ - b_i - b_u - x.y                                      an item's step, by a user's row and rating
    u = rate * (e [x, 1] - reg [y, b_i])
    [y, b_i] = float32([y, b_i] + u * min(1, clip / |u|))

The batch job's half-steps are the same regression, with the sides changed for the items. A rating has the weight
w = 2^(-age / rating_half_life) * 2^(-newer / recency_entries), 1 where both are off; `streamer.factors.weigh` says what
ages and newer entries are. A newer rating of an item takes the place of the older one. The rating is an event's
`value`, whichever positive type brings it; a positive event without one rates nothing and is set aside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotrs

from streamer.factors.guard import guard
from streamer.factors.weigh import add_events, decay_array, newer_entries

if TYPE_CHECKING:
    from schemas.records import Policy
    from streamer.factors.history import Merge

BoolArray = NDArray[np.bool_]
Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.float64]
Index = NDArray[np.intp]
IndexArray = NDArray[np.int32]
IntArray = NDArray[np.int64]

REFUSED = float("inf")


def replace_ratings(
    strength: Float32Array, time: IntArray, weight: FloatArray, at: IntArray, _half_life_ms: int
) -> tuple[Float32Array, IntArray]:
    """Let one rating replace that of each of n entries where it is newer; all (n,), as `weigh.add_events` has them.

    Of two at the same time the higher one stays, so that no order of arrival matters.
    """
    rating = np.minimum(weight, float(np.finfo(np.float32).max)).astype(np.float32)
    takes = (at > time) | ((at == time) & (rating > strength))
    return np.where(takes, rating, strength), np.maximum(at, time)


def merge_of(policy: Policy) -> Merge:
    """What a further event does to the entry of its item."""
    return add_events if policy.feedback == "implicit" else replace_ratings


def weights_now(time: IntArray, used: BoolArray, policy: Policy) -> FloatArray:
    """Return the weight of every rating as of its user's newest one. All (..., H); from 0 to 1."""
    now = np.max(time, axis=-1, keepdims=True, initial=0, where=used)
    weight = decay_array(np.maximum(now - time, 0), policy.rating_half_life_ms)
    if policy.recency_entries:
        weight *= decay_array(newer_entries(time, used), policy.recency_entries)
    return weight


def solve_ratings(
    items: Float32Array, rating: NDArray[np.floating], weight: FloatArray, mean: float, policy: Policy
) -> Float32Array:
    """Return the user's row (k + 1,) from items (n, k + 1), rating and weight (n,); zeros where n is 0.

    In float64, the operations and their order fixed: the same arguments give the same bytes with the same numpy.
    """
    return regress(items, rating, weight, mean, policy.ridge, policy.ridge_bias).astype(np.float32)


def regress(
    fixed: NDArray[np.floating],
    rating: NDArray[np.floating],
    weight: NDArray[np.floating],
    mean: float,
    ridge: float,
    ridge_bias: float,
) -> FloatArray:
    """Return one row (k + 1,) against the other side's rows (n, k + 1); not numbers where it has no solution."""
    rows = np.array(fixed, dtype=np.float64)
    right = np.asarray(rating, np.float64) - mean - rows[:, -1]
    rows[:, -1] = 1.0
    weighted = rows * np.asarray(weight, np.float64)[:, None]
    diagonal = np.full(rows.shape[1], ridge)
    diagonal[-1] = ridge_bias
    factor, failed = dpotrf(weighted.T @ rows + np.diag(diagonal), lower=1, clean=0)
    if failed:  # only where a number is not finite, or so large that the ridge drowns: the guard sees it
        return np.full(rows.shape[1], np.nan)
    solution: FloatArray = dpotrs(factor, weighted.T @ right, lower=1)[0]
    return solution


def solve_users(
    items: Float32Array, index: IndexArray, rating: FloatArray, weight: FloatArray, mean: float, policy: Policy
) -> tuple[Float32Array, BoolArray]:
    """Solve a stack of users: index (-1: unknown or unused), rating and weight (B, H) against items (m, k + 1).

    Returns the rows (B, k + 1) and which of the users have rated no known item: their rows are zeros.
    """
    rows = np.zeros((len(index), items.shape[1]), np.float32)
    known = (index >= 0) & np.isfinite(rating)
    empty = np.logical_not(np.any(known, axis=1))
    for user in np.flatnonzero(~empty).tolist():
        mine = known[user]
        rows[user] = solve_ratings(items[index[user, mine]], rating[user, mine], weight[user, mine], mean, policy)
    return rows, np.asarray(empty, bool)


def apply_ratings(
    items: Float32Array, item_of_signal: Index, users: Float32Array, rating: FloatArray, mean: float, policy: Policy
) -> tuple[Float32Array, FloatArray]:
    """Move items by signals, in signal order for each item; stored in float32 after each, however batches are cut.

    Args:
        items: (I, k + 1) item rows.
        item_of_signal: (S,) row of `items` that each signal is for.
        users: (S, k + 1) the row of each signal's user.
        rating: (S,) the rating of each signal's event.
        mean: μ.
        policy: its `sgd_rate`, `sgd_reg`, `sgd_clip` and `norm_cap`.

    Returns:
        The new rows (I, k + 1), and the norm of each signal's step (S,); a step that is not finite is not taken, and
        its norm is `REFUSED`.
    """
    out, norms = items.copy(), np.zeros(len(item_of_signal))
    order = np.argsort(item_of_signal, kind="stable")
    grouped = item_of_signal[order]
    starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]][: len(grouped)])
    rank = np.arange(len(grouped)) - np.repeat(starts, np.diff(np.r_[starts, len(grouped)]))
    # Round r takes the r-th signal of each item: distinct rows, so a round is one step of arrays.
    with np.errstate(over="ignore", invalid="ignore"):
        for turn in range(int(rank.max(initial=-1)) + 1):
            signals = order[rank == turn]
            row = item_of_signal[signals]
            moved, norms[signals] = _step(out[row], users[signals], rating[signals] - mean, policy)
            out[row] = guard(moved, policy.norm_cap).vectors
    return out, norms


def _step(
    items: Float32Array, users: Float32Array, wanted: FloatArray, policy: Policy
) -> tuple[Float32Array, FloatArray]:
    """One signal for each of A items: the moved rows (A, k + 1) and the norms of the steps (A,)."""
    y, x = items.astype(np.float64), users.astype(np.float64)
    error = wanted - y[:, -1] - x[:, -1] - np.add.reduce(x[:, :-1] * y[:, :-1], axis=1)
    x[:, -1] = 1.0
    update = policy.sgd_rate * (error[:, None] * x - policy.sgd_reg * y)
    norm: FloatArray = np.sqrt(np.add.reduce(update * update, axis=1))
    good = np.isfinite(norm)
    with np.errstate(divide="ignore"):
        update *= np.minimum(1.0, policy.sgd_clip / norm)[:, None]
    update[~good] = 0.0
    return (y + update).astype(np.float32), np.where(good, np.minimum(norm, policy.sgd_clip), REFUSED)
