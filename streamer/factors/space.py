"""The item vectors of one generation, with everything the user solves need of them.

    G = V' diag(w) V             Gramian, float64, over all items; w, what an unobserved pair weighs, is mostly 1
    G0 + ridge I = L L'          factored when `refactor` last ran
    W = V L^-T                   whitened rows: in y = L' x the system of a user is
    I + R + sum (c-1) w w'       with R = L^-1 (G - G0) L^-T, the remainder

In whitened coordinates a user's system is close to the identity, so conjugate gradients end in a few steps and touch
the user's own rows only. R keeps it exact while item vectors move; it is zero after `refactor`.

Where users have ridges of their own (`Ridge.nu`), the smallest of them is what G0 is whitened with, in its eigenbasis:

    G0 = Q diag(g) Q',   L = Q diag(g + ridge)^(1/2)

There a user's own ridge only adds (ridge_u - ridge) / (g + ridge) to the diagonal; scaling the coordinates by
S = (1 + that)^(-1/2) makes the user's system I + S R S + sum (c-1) (S w)(S w)', which is solved like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from streamer.factors.gram import gramian
from streamer.factors.ridge import Ridge
from streamer.factors.table import HashArray, HashTable, IndexArray

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Number = TypeVar("Number", bound=np.generic)

# The share of itself that a user's system may owe to the remainder before the whitening is made anew.
MAX_REMAINDER = 0.1
_NO_REMAINDER = 1e-9  # rounding, as after putting the same vectors again
_BLOCK = 8192
_TINY = 1e-300


class ItemSpace:
    """A growing matrix of item vectors (m, k) with its Gramian, its whitening and the item's index by id and hash."""

    def __init__(self, dimension: int, ridge: float | Ridge, *, capacity: int = 1024) -> None:
        self.rule = ridge if isinstance(ridge, Ridge) else Ridge(ridge)
        if dimension < 1 or self.rule.base <= 0:
            raise ValueError(f"dimension {dimension} must be at least 1 and ridge {self.rule.base} above 0")
        self.dimension = dimension
        self.ridge = self.rule.floor
        self.size = 0
        self.collisions = 0
        self.gramian: FloatArray = np.zeros((dimension, dimension))
        self.ids: list[str] = []
        self._index: dict[str, int] = {}
        self._table = HashTable(capacity)
        rows = max(capacity, 1)
        self._vectors: Float32Array = np.zeros((rows, dimension), dtype=np.float32)
        self._whitened: Float32Array = np.zeros((rows, dimension), dtype=np.float32)
        self._leverage: Float32Array = np.zeros(rows, dtype=np.float32)
        self._versions: NDArray[np.int64] = np.zeros(rows, dtype=np.int64)
        self._weights: FloatArray = np.ones(rows)
        self.weighted = False
        self._scratch: Float32Array = np.empty((0, dimension), dtype=np.float32)
        self._remainder: Float32Array | None = None
        self._stale = False
        self.refactor()

    @property
    def vectors(self) -> Float32Array:
        """The item vectors, (size, k) float32; read only, change them by `put`."""
        return self._vectors[: self.size]

    @property
    def versions(self) -> NDArray[np.int64]:
        """The version each vector came with, (size,) int64, kept for the caller, who may write to it."""
        return self._versions[: self.size]

    @property
    def weights(self) -> FloatArray:
        """What an unobserved pair of each item weighs, (size,); all 1 unless `weighted`."""
        return self._weights[: self.size]

    @property
    def whitened(self) -> Float32Array:
        """The whitened rows W, (at least 1, k) float32."""
        return self._whitened[: max(self.size, 1)]

    @property
    def leverage(self) -> Float32Array:
        """The squared length w'w of each whitened row, (at least 1,) float32."""
        return self._leverage[: max(self.size, 1)]

    def index_of(self, item_id: str) -> int:
        """Return the index of an item id, -1 where it is unknown."""
        return self._index.get(item_id, -1)

    def lookup(self, hashes: HashArray) -> IndexArray:
        """Return the index of each item hash, -1 where it is unknown. hashes: any shape, uint64."""
        return self._table.lookup(hashes)

    def add(self, item_ids: Sequence[str], hashes: HashArray) -> IndexArray:
        """Return the index of each item, new ones starting as zero vectors at version 0. hashes: (n,) uint64.

        An id whose hash belongs to another id is refused: its index is -1 and `collisions` counts it.
        """
        known = self._table.lookup(hashes)
        index = np.empty(len(item_ids), dtype=np.int32)
        fresh: dict[int, int] = {}
        for position, item_id in enumerate(item_ids):
            at = self._index.get(item_id, -1)
            if at < 0:
                key = int(hashes[position])
                if known[position] >= 0 or key in fresh or key == 0:
                    self.collisions += 1
                else:
                    at = len(self.ids)
                    fresh[key] = self._index[item_id] = at
                    self.ids.append(item_id)
            index[position] = at
        if fresh:
            self._table.insert(np.fromiter(fresh, np.uint64), np.fromiter(fresh.values(), np.int32))
            self._grow(len(self.ids))
        return index

    def put(self, index: IndexArray, vectors: Float32Array, weights: FloatArray | None = None) -> None:
        """Set vectors (n, k) at indexes (n,), and weights (n,), None for 1; of an index given twice the last counts.

        Raises:
            ValueError: another shape, a number that is not finite, or a weight that is not above 0.
            IndexError: an index outside of the space.
        """
        if vectors.shape != (index.size, self.dimension):
            raise ValueError(f"vectors {vectors.shape} do not fit {index.size} indexes of dimension {self.dimension}")
        if not np.isfinite(vectors).all():
            raise ValueError("an item vector holds a number that is not finite")
        if index.size and not (index.min() >= 0 and index.max() < self.size):
            raise IndexError("an item index is outside the space")
        weights = np.ones(index.size) if weights is None else weights
        if not (np.isfinite(weights).all() and (weights > 0).all()):
            raise ValueError("an item's weight is not above 0")
        self.weighted = self.weighted or bool((weights != 1).any())
        keep = _last_of_each(index)
        index, vectors, weights = index[keep], vectors[keep], weights[keep]
        for start in range(0, index.size, _BLOCK):
            rows = index[start : start + _BLOCK]
            new = vectors[start : start + _BLOCK].astype(np.float64)
            old = self._vectors[rows].astype(np.float64)
            if self.weighted:
                weight = weights[start : start + _BLOCK]
                self.gramian += (new.T * weight) @ new - (old.T * self._weights[rows]) @ old
                self._weights[rows] = weight
            else:
                self.gramian += new.T @ new - old.T @ old
            self._vectors[rows] = new
            self._whitened[rows] = white = (new @ self._unwhiten).astype(np.float32)
            self._leverage[rows] = np.vecdot(white, white)
        self._stale = True

    def recount(self) -> float:
        """Count the Gramian anew and return how far it had drifted, relative to its norm."""
        return self.drift(-1.0)

    def drift(self, bound: float) -> float:
        """How far the Gramian is from an exact recount, relative to its norm; above ``bound`` that takes its place."""
        exact = self.product(np.arange(self.size))
        drift = float(np.linalg.norm(self.gramian - exact) / max(float(np.linalg.norm(exact)), _TINY))
        if not drift <= bound:  # also where it is not a number
            self.gramian = exact
            self._stale = True
        return drift

    def product(self, order: NDArray[np.integer]) -> FloatArray:
        """Return V' diag(w) V (k, k) of these items, added up in their order; of all of them that is G."""
        return gramian(self.vectors, self.weights if self.weighted else None, order)

    def refactor(self) -> None:
        """Factor G + ridge I and whiten every row anew: some 0.4 ms per thousand items of 64 dimensions."""
        lower, inverse = self._by_eigenbasis() if self.rule.nu else self._by_cholesky()
        self._lower32: Float32Array = np.ascontiguousarray(lower, np.float32)
        self._inverse: FloatArray = np.ascontiguousarray(inverse)
        self._unwhiten: FloatArray = np.ascontiguousarray(inverse.T)
        self._factored = self.gramian.copy()
        for start in range(0, self.size, _BLOCK):
            part = slice(start, min(start + _BLOCK, self.size))
            self._whitened[part] = white = (self._vectors[part] @ self._unwhiten).astype(np.float32)
            self._leverage[part] = np.vecdot(white, white)
        self._remainder, self._stale = None, False

    def _by_cholesky(self) -> tuple[FloatArray, FloatArray]:
        """L, a triangle, and its inverse."""
        ridge = self.ridge * np.eye(self.dimension)
        try:
            lower = np.linalg.cholesky(self.gramian + ridge)
        except np.linalg.LinAlgError:  # a ridge smaller than what the rank-one updates have lost: count anew
            self.recount()
            lower = np.linalg.cholesky(self.gramian + ridge)
        self._spread: FloatArray = np.zeros(0)
        inverse: FloatArray = solve_triangular(lower, np.eye(self.dimension), lower=True)
        return lower.astype(np.float64, copy=False), inverse

    def _by_eigenbasis(self) -> tuple[FloatArray, FloatArray]:
        """L, where another ridge is a diagonal, and its inverse."""
        values, axes = np.linalg.eigh(self.gramian)
        loaded = np.maximum(values, 0.0) + self.ridge
        self._spread = 1.0 / loaded
        return axes * np.sqrt(loaded), (axes / np.sqrt(loaded)).T

    def scale(self, known: NDArray[np.integer]) -> Float32Array | None:
        """Return S of users with so many known items (B,), as (B, k); None where all have the same ridge."""
        if not self.rule.nu:
            return None
        own = self.rule.of_all(np.maximum(known, 1)) - self.ridge
        return (1.0 / np.sqrt(1.0 + own[:, None] * self._spread)).astype(np.float32)

    def remainder(self) -> Float32Array | None:
        """Return R (k, k), or None where it is zero; whiten anew first where R has grown past its bound."""
        if self._stale:
            moved = self._unwhiten.T @ (self.gramian - self._factored) @ self._unwhiten
            norm = np.linalg.norm(moved)
            if norm > MAX_REMAINDER:
                self.refactor()
            else:
                self._remainder = moved.astype(np.float32) if norm > _NO_REMAINDER else None
                self._stale = False
        return self._remainder

    def whiten(self, vectors: Float32Array) -> Float32Array:
        """Return y = L' x for user vectors x (B, k)."""
        return vectors @ self._lower32

    def unwhiten(self, whitened: Float32Array) -> Float32Array:
        """Return x = L^-T y for whitened user vectors y (B, k), multiplied in float64."""
        return (whitened @ self._unwhiten.T).astype(np.float32)

    def tables(self) -> tuple[HashArray, IndexArray, Float32Array, Float32Array, Float32Array, FloatArray, FloatArray]:
        """Return what the compiled kernel reads, read only.

        The table's two arrays, W, leverage, L and L^-1, and 1 / (g + ridge), (k,), empty where L is a triangle.
        """
        return *self._table.slots, self.whitened, self.leverage, self._lower32, self._inverse, self._spread

    def scratch(self, rows: int) -> Float32Array:
        """Return room for `rows` gathered rows (rows, k); the next call may hand out the same memory.

        Fresh memory is faulted in page by page, which costs as much as a third of the solve: so it is kept, and a
        space is for one thread at a time.
        """
        if rows > len(self._scratch):
            self._scratch = np.empty((rows + rows // 8, self.dimension), dtype=np.float32)
        return self._scratch[:rows]

    def _grow(self, size: int) -> None:
        """Make room for `size` rows, at least doubling, so that an added row costs O(1) copies."""
        if size > len(self._versions):
            rows = max(size, 2 * len(self._versions))
            self._vectors = _extended(self._vectors, rows)
            self._whitened = _extended(self._whitened, rows)
            self._leverage = _extended(self._leverage, rows)
            self._versions = _extended(self._versions, rows)
            added = np.ones(rows)
            added[: len(self._weights)] = self._weights
            self._weights = added
        self.size = size


def _extended(array: NDArray[Number], rows: int) -> NDArray[Number]:
    out = np.zeros((rows, *array.shape[1:]), dtype=array.dtype)
    out[: len(array)] = array
    return out


def _last_of_each(index: IndexArray) -> NDArray[np.intp] | slice:
    """Where the last of every index stands."""
    if np.unique(index).size == index.size:
        return slice(None)
    _, from_end = np.unique(index[::-1], return_index=True)
    return np.sort(index.size - 1 - from_end)
