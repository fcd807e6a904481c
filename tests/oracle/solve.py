"""The user's vector by Cholesky in float64, in the documented order of operations."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from tests.oracle.hashes import item_hash
from tests.oracle.logs import Log
from tests.oracle.numbers import confidences, decay
from tests.oracle.rowbytes import UserRow
from tests.oracle.rules import Rules


@dataclass(frozen=True, slots=True)
class ItemMatrix:
    """All item vectors, rows in the order of the ids, and their Gramian. vectors: (m, k) float32."""

    vectors: npt.NDArray[np.float32]
    row_of: dict[int, int]
    gramian: npt.NDArray[np.float64]


def item_matrix(items: Log, rules: Rules) -> ItemMatrix:
    """The newest vector of each item, and the Gramian as one product of the rows in the order of the ids.

    Float64 sums depend on their order in the last bit: this order is the one that everybody can repeat.
    """
    newest: dict[str, list[float]] = {}
    for records in items.values():
        for record in records:
            if record.key is not None and record.value is not None:
                newest[record.key.decode()] = json.loads(record.value)["vector"]
    ids = sorted(newest)
    vectors = np.array([newest[item_id] for item_id in ids], np.float32).reshape(len(ids), rules.dimension)
    exact = vectors.astype(np.float64)
    gramian = exact.T @ exact
    return ItemMatrix(vectors, {item_hash(item_id, rules.item_key): row for row, item_id in enumerate(ids)}, gramian)


def solve(row: UserRow, items: ItemMatrix, rules: Rules) -> npt.NDArray[np.float32]:
    """The vector (k,) that belongs to a row's history; the average user's where it holds no known item."""
    known = [(items.row_of[entry.item], entry) for entry in row.history if entry.item in items.row_of]
    if not known:
        return np.array(rules.average_user, np.float32)
    newest = max(entry.time for entry in row.history)
    faded = [entry.strength * decay(newest - entry.time, rules.half_life_ms) for _, entry in known]
    c = confidences(faded, rules.confidence, rules.alpha)
    v = items.vectors[[number for number, _ in known]].astype(np.float64)
    a = items.gramian + rules.ridge * np.eye(rules.dimension)
    a += (v * (c - 1.0)[:, None]).T @ v
    b = v.T @ (c if rules.rhs == "c" else c - 1.0)
    exact: npt.NDArray[np.float64] = cho_solve(cho_factor(a, lower=True), b)
    return _within_norm(exact.astype(np.float32), rules.norm_cap)


def _within_norm(vector: npt.NDArray[np.float32], cap: float) -> npt.NDArray[np.float32]:
    """Scaled back onto the ball of radius ``cap``."""
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if norm <= cap:
        return vector
    return (vector.astype(np.float64) * (cap / norm)).astype(np.float32)
