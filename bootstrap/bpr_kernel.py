"""The compiled loop of `bootstrap.bpr`, the twin of its `_climb`; needs numba (the extra `fast`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numba import types

from streamer.factors.kernel import jit as compiling
from streamer.factors.kernel.jit import FAST, jit, number_of

_f8, _i8 = types.float64, types.int64
_index, _table = _i8[::1], _f8[:, ::1]


def _compile(sources: int) -> Any:
    @jit(_f8(_index, _index, _index, _table, _table, _f8, _f8, _f8), fastmath=FAST)
    def climb(
        user: Any, item: Any, other: Any, users: Any, items: Any, rate: float, reg_users: float, reg_items: float
    ) -> float:
        """One epoch over the triples, in place in users (n, k) and items (m, k); returns the sum of ln(1 + exp(-d))."""
        lost, k = 0.0, users.shape[1]
        if not sources:
            return lost
        for n in range(user.size):
            x, y, z = users[user[n]], items[item[n]], items[other[n]]
            d = 0.0
            for j in range(k):
                d += x[j] * (y[j] - z[j])
            # Of the two exponents the one that cannot overflow.
            e = np.exp(-abs(d))
            lost += np.log1p(e) + max(-d, 0.0)
            g = (e if d > 0 else 1.0) / (1.0 + e)
            for j in range(k):
                a, b, c = x[j], y[j], z[j]
                x[j] += rate * (g * (b - c) - reg_users * a)
                y[j] += rate * (g * a - reg_items * b)
                z[j] += rate * (-g * a - reg_items * c)
        return lost

    return climb


climb = _compile(number_of([Path(__file__), Path(compiling.__file__)]))
