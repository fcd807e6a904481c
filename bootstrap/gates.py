"""What a model must reach before it is published; every bound is a setting, every result is in the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from schemas.records import Gate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamer.settings import Settings

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds.

    recall_over_popularity: the least recall@k, as a multiple of the recall of recommending what is popular;
    max_parity_error: how far a user vector may be from the reference solver's; min_users, min_items: the fewest to
    train on.
    """

    recall_over_popularity: float = 1.0
    max_parity_error: float = 1e-5
    min_users: int = 1
    min_items: int = 1


def bounds_of(settings: Settings) -> Bounds:
    """The bounds in `[bootstrap.gates]`, where the settings have that section; else the defaults."""
    section = getattr(settings.bootstrap, "gates", None)
    return Bounds() if section is None else Bounds(**section.model_dump())


def judge(
    items: F32, users: F32, metrics: dict[str, float], *, dimension: int, norm_cap: float, bounds: Bounds
) -> list[Gate]:
    """Hold a model to the bounds. items: (m, k), users: (n, k); metrics as `evaluate` names them."""
    broken = sum(int(np.count_nonzero(~np.isfinite(side).all(axis=1))) for side in (items, users))
    other = sum(side.shape[1] != dimension for side in (items, users))
    largest = max(_largest_norm(items), _largest_norm(users))
    parity = metrics.get("parity_error", 0.0)
    # A vector at the cap was scaled down to it in float32.
    cap = norm_cap * (1 + 1e-6)
    recall, bound = metrics.get("recall", 0.0), bounds.recall_over_popularity * metrics.get("popularity_recall", 0.0)
    return [
        Gate("vectors_not_finite", 0.0, float(broken), broken == 0),
        Gate("vectors_of_other_dimension", 0.0, float(other), other == 0),
        Gate("largest_norm", cap, largest, largest <= cap),
        Gate("parity_error", bounds.max_parity_error, parity, parity <= bounds.max_parity_error),
        Gate("users", float(bounds.min_users), float(len(users)), len(users) >= bounds.min_users),
        Gate("items", float(bounds.min_items), float(len(items)), len(items) >= bounds.min_items),
        # With nothing to score there is no proof either way: 0 against 0 passes.
        Gate("recall", bound, recall, recall >= bound),
    ]


def _largest_norm(vectors: F32) -> float:
    """The largest norm; the largest float stands for one that is not finite, because JSON has no infinity."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    largest = float(np.max(norms, initial=0.0))
    return largest if np.isfinite(largest) else float(np.finfo(np.float64).max)


def failures(gates: Iterable[Gate]) -> list[str]:
    """Each gate that failed, in words."""
    return [f"{gate.name} is {gate.value:.6g} where {gate.bound:.6g} is the bound" for gate in gates if not gate.passed]
