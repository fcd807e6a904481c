"""Ratings that were planted: about 3, by tastes of three dimensions and by biases."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.records import DAY_MS
from tests.bootstrap.small import event

USERS, ITEMS = 60, 40
EXPLICIT = {
    "FACTORS_POLICY__FEEDBACK": "explicit",
    "FACTORS_POLICY__RIDGE": "0.5",
    "FACTORS_POLICY__RIDGE_BIAS": "0.5",
    "FACTORS_BOOTSTRAP__DIMENSION": "3",
}


def truth(seed: int = 5) -> npt.NDArray[np.float64]:
    """(USERS, ITEMS) what each would rate each, from 0.5 to 6."""
    draw = np.random.default_rng(seed)
    x, y = draw.standard_normal((USERS, 3)) * 0.6, draw.standard_normal((ITEMS, 3)) * 0.6
    bu, bi = draw.standard_normal(USERS) * 0.4, draw.standard_normal(ITEMS) * 0.4
    return np.asarray(np.clip(3.0 + bu[:, None] + bi + x @ y.T, 0.5, 6.0), np.float64)


def planted(now_ms: int, seed: int = 5, *, users: int = USERS) -> list[dict[str, Any]]:
    """Two thirds of all pairs of the first ``users`` as events, in time order over the month before ``now_ms``."""
    rating, draw = truth(seed), np.random.default_rng(seed)
    pairs = [(u, i) for u in range(users) for i in range(ITEMS) if draw.random() < 0.66]
    draw.shuffle(pairs)
    step = 30 * DAY_MS // len(pairs)
    return [rated(u, i, float(rating[u, i]), now_ms - (len(pairs) - at) * step) for at, (u, i) in enumerate(pairs)]


def rated(user: int, item: int, value: float, at: int) -> dict[str, Any]:
    """One rating as an event."""
    return event(f"u{user}", f"i{item}", "watch_complete", at, value=value)
