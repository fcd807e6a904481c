"""The compiled loops of explicit training, twins of `explicit._Side._plain` and `descent._descend`; needs numba."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numba import types

from streamer.factors.kernel import jit as compiling
from streamer.factors.kernel.jit import FAST, jit, number_of

_f8, _i8 = types.float64, types.int64
_row, _table, _index = _f8[::1], _f8[:, ::1], _i8[::1]


@jit(fastmath=FAST)
def _normal(
    start: int, end: int, other: Any, rating: Any, weight: Any, fixed: Any, mean: float, system: Any, right: Any
) -> None:
    """Add each pair's w v v' to the lower triangle of ``system`` and w (r - μ - b) v to ``right``, v ending in 1."""
    k = right.size - 1
    for pair in range(start, end):
        v, w = fixed[other[pair]], weight[pair]
        wanted = rating[pair] - mean - v[k]
        for i in range(k):
            scaled = w * v[i]
            for j in range(i + 1):
                system[i, j] += scaled * v[j]
            right[i] += scaled * wanted
            system[k, i] += scaled
        system[k, k] += w
        right[k] += w * wanted


@jit(fastmath=FAST)
def _cholesky(system: Any, right: Any) -> None:
    """Solve in place: ``right`` becomes the solution; not numbers where the system is not positive."""
    n = right.size
    for j in range(n):
        for i in range(j):
            part = 0.0
            for p in range(i):
                part += system[j, p] * system[i, p]
            system[j, i] = (system[j, i] - part) / system[i, i]
        part = 0.0
        for p in range(j):
            part += system[j, p] * system[j, p]
        system[j, j] = np.sqrt(system[j, j] - part)
    for i in range(n):
        part = 0.0
        for p in range(i):
            part += system[i, p] * right[p]
        right[i] = (right[i] - part) / system[i, i]
    for i in range(n - 1, -1, -1):
        right[i] /= system[i, i]
        for p in range(i):
            right[p] -= system[i, p] * right[i]


@jit(fastmath=FAST)
def _add_seen(items: Any, order: Any, start: int, end: int, seen: Any, share: float, offset: Any, pull: Any) -> None:
    """Set offset to share * sum z over the ratings order[start:end], and pull to 0."""
    for j in range(offset.size):
        offset[j] = 0.0
        pull[j] = 0.0
    for n in range(start, end):
        z = seen[items[order[n]]]
        for j in range(offset.size):
            offset[j] += share * z[j]


@jit(fastmath=FAST)
def _move_seen(
    items: Any, order: Any, start: int, end: int, seen: Any, share: float, pull: Any, rate: float, reg: float
) -> None:
    """Move each z by the user's pull."""
    for n in range(start, end):
        z = seen[items[order[n]]]
        for j in range(pull.size):
            z[j] += rate * (share * pull[j] - reg * z[j])


@jit(fastmath=FAST)
def _step(
    x: Any, y: Any, offset: Any, pull: Any, wanted: float, w: float, rate: float, reg_users: float, reg_items: float,
    reg_biases: float,
) -> Any:  # fmt: skip
    """Take one rating's step, ``wanted`` being it less the mean; returns its error."""
    k, score = x.size - 1, 0.0
    for j in range(k):
        score += (x[j] + offset[j]) * y[j]
    error = wanted - x[k] - y[k] - score
    gain = w * error
    for j in range(k):
        before, other = x[j], y[j]
        pull[j] += gain * other
        x[j] += rate * (gain * other - reg_users * before)
        y[j] += rate * (gain * (before + offset[j]) - reg_items * other)
    x[k] += rate * (gain - reg_biases * x[k])
    y[k] += rate * (gain - reg_biases * y[k])
    return error


def _compile_rows(sources: int) -> Any:
    @jit(types.void(_index, _index, _row, _row, _i8, _i8, _table, _f8, _f8, _f8, _table))
    def solve_rows(
        start: Any, other: Any, rating: Any, weight: Any, first: int, last: int, fixed: Any, mean: float, ridge: float,
        ridge_bias: float, moving: Any,
    ) -> None:  # fmt: skip
        """Solve rows first to last of ``moving`` (n, k + 1) against ``fixed`` (m, k + 1), in place."""
        if not sources:
            return
        width = fixed.shape[1]
        system, right = np.empty((width, width)), np.empty(width)
        for row in range(first, last):
            system[:] = 0.0
            right[:] = 0.0
            for j in range(width - 1):
                system[j, j] = ridge
            system[width - 1, width - 1] = ridge_bias
            _normal(start[row], start[row + 1], other, rating, weight, fixed, mean, system, right)
            _cholesky(system, right)
            for j in range(width):
                moving[row, j] = right[j]

    return solve_rows


def _compile_epochs(sources: int) -> Any:
    @jit(
        _f8(_index, _index, _index, _index, _row, _row, _f8, _table, _table, _table, _table, _f8, _f8, _f8, _f8, _f8),
        fastmath=FAST,
    )
    def descend(
        order: Any, user: Any, item: Any, bin_of: Any, rating: Any, weight: Any, mean: float, users: Any, items: Any,
        drift: Any, seen: Any, rate: float, reg_users: float, reg_items: float, reg_biases: float, reg_seen: float,
    ) -> float:  # fmt: skip
        """One epoch over the ratings in ``order``, in place; returns the sum of w e^2.

        Where ``seen`` (m, k) has rows, a user's ratings must lie together in ``order``.
        """
        lost, n, share = 0.0, 0, 1.0
        offset, pull = np.zeros(users.shape[1] - 1), np.zeros(users.shape[1] - 1)
        while sources and n < order.size:
            end = n + 1
            if seen.shape[0]:
                while end < order.size and user[order[end]] == user[order[n]]:
                    end += 1
                share = 1.0 / np.sqrt(float(end - n))
                _add_seen(item, order, n, end, seen, share, offset, pull)
            for p in range(n, end):
                at = order[p]
                i, part = item[at], drift[item[at], bin_of[at]]
                wanted, w = rating[at] - mean - part, weight[at]
                x = users[user[at]]
                error = _step(x, items[i], offset, pull, wanted, w, rate, reg_users, reg_items, reg_biases)
                lost += w * error * error
                if drift.shape[1] > 1:
                    drift[i, bin_of[at]] += rate * (w * error - reg_biases * part)
            if seen.shape[0]:
                _move_seen(item, order, n, end, seen, share, pull, rate, reg_seen)
            n = end
        return lost

    return descend


_SOURCES = number_of([Path(__file__), Path(compiling.__file__)])
solve_rows, descend = _compile_rows(_SOURCES), _compile_epochs(_SOURCES)
