"""The user's vector by Cholesky in float64, in the documented order of operations."""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from tests.oracle.hashes import item_hash
from tests.oracle.logs import Log, LogRecord
from tests.oracle.numbers import confidences, decay
from tests.oracle.rowbytes import Entry, UserRow
from tests.oracle.rules import Rules


@dataclass(frozen=True, slots=True)
class _Version:
    offset: int
    item_id: str
    vector: npt.NDArray[np.float32]
    weight: float


@dataclass(frozen=True, slots=True)
class ItemMatrix:
    """All item vectors, rows in the order of the ids, and their Gramian. vectors: (m, k) float32."""

    vectors: npt.NDArray[np.float32]
    row_of: dict[int, int]
    gramian: npt.NDArray[np.float64]


class ItemViews:
    """The item vectors as a worker that had read item-factors up to given offsets saw them.

    A row notes these offsets (``items_epoch``), so a solve can be repeated although the items have moved since.
    """

    def __init__(self, items: Log, rules: Rules) -> None:
        self._rules = rules
        self._partitions = [self._versions(items.get(number, [])) for number in range(max(items, default=-1) + 1)]
        self._matrices: dict[tuple[int, ...], ItemMatrix] = {}

    def at(self, epochs: list[int]) -> ItemMatrix:
        """The view at one offset a partition."""
        counts = tuple(
            bisect_left(versions, offset, key=lambda version: version.offset)
            for versions, offset in zip(self._partitions, epochs, strict=True)
        )
        if counts not in self._matrices:
            newest: dict[str, _Version] = {}
            for versions, count in zip(self._partitions, counts, strict=True):
                newest |= {version.item_id: version for version in versions[:count]}
            self._matrices[counts] = self._matrix(newest)
        return self._matrices[counts]

    def _matrix(self, newest: dict[str, _Version]) -> ItemMatrix:
        """The Gramian is one product of the rows in the order of the ids.

        Float64 sums depend on their order in the last bit: this order is the one that everybody can repeat.
        """
        ids, k = sorted(newest), self._rules.dimension
        vectors = np.array([newest[item_id].vector for item_id in ids], np.float32).reshape(len(ids), k)
        exact = vectors.astype(np.float64)
        rows = {item_hash(item_id, self._rules.item_key): row for row, item_id in enumerate(ids)}
        weights = np.array([newest[item_id].weight for item_id in ids])
        return ItemMatrix(vectors, rows, exact.T @ exact if (weights == 1).all() else (exact.T * weights) @ exact)

    @staticmethod
    def _versions(records: list[LogRecord]) -> list[_Version]:
        """What counts of one partition: records whose version is newer than the item's last."""
        found: list[_Version] = []
        last: dict[str, int] = {}
        for record in records:
            if record.key is None or record.value is None:
                continue
            body, item_id = json.loads(record.value), record.key.decode()
            if body["version"] > last.get(item_id, 0):
                last[item_id] = body["version"]
                found.append(
                    _Version(record.offset, item_id, np.array(body["vector"], np.float32), body.get("weight", 1.0))
                )
        return found


def solve(row: UserRow, items: ItemMatrix, rules: Rules) -> npt.NDArray[np.float32]:
    """The vector (k,) that belongs to a row's history; the average user's where it holds no known item."""
    entries = counting(row, rules)
    if not any(entry.item in items.row_of for entry in entries):
        return np.array(rules.average_user, np.float32)
    return solve_entries(entries, row, items, rules)


def counting(row: UserRow, rules: Rules) -> list[Entry]:
    """The entries inside of the window that ends with the user's newest event; the others count for nothing."""
    return [entry for entry in row.history if row.event_time - entry.time <= rules.window_ms]


def solve_entries(entries: list[Entry], row: UserRow, items: ItemMatrix, rules: Rules) -> npt.NDArray[np.float32]:
    """The solve (k,) over some entries of a row's history, weighed as they are in the whole of it."""
    known = [(items.row_of[entry.item], entry) for entry in entries if entry.item in items.row_of]
    newest = max(entry.time for entry in row.history)
    faded = [entry.strength * decay(newest - entry.time, rules.half_life_ms) for _, entry in known]
    c = confidences(faded, rules.confidence, rules.alpha)
    if rules.recency_entries:
        newer = [sum(other.time > entry.time for other in row.history) for _, entry in known]
        shares = np.array([decay(count, rules.recency_entries) for count in newer])
        c = 1.0 + (c - 1.0) * shares
    v = items.vectors[[number for number, _ in known]].astype(np.float64)
    ridge = rules.ridge * (len(known) + rules.ridge_alpha0 * rules.trained_items) ** rules.ridge_nu
    a = items.gramian + ridge * np.eye(rules.dimension)
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
