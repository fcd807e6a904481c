"""Implicit ALS over a confidence matrix: alternate exact-in-the-limit half-steps until the item vectors stand.

With confidences c >= 1 of the observed pairs, q = c or c - 1 (the policy's right-hand side) and ridge λ, a half-step
lowers, for every row x against the fixed vectors v::

    f(x) = x'(V'V + λI)x + sum (c - 1)(x.v)^2 - 2 sum q (x.v)

by a few steps of conjugate gradients from where the row was. Such a step can only lower f, so the loss below never
rises while both half-steps see the same confidences; with decay they do not (a user's ages count from the user's newest
event, an item's from the training cut), and each half-step then lowers its own loss::

    L = sum over all pairs (x.v)^2 + sum (c - 1)(x.v)^2 - 2 q (x.v) + q^2/c + λ(|X|^2 + |V|^2)

Only the item vectors leave this file. The published user vectors come from the stream's own solver (`users.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

# Pairs a pass. Their gathered vectors (2 MB at k = 64) stay in the cache through all steps of the pass.
_PAIRS = 8192


@dataclass(frozen=True, slots=True)
class Training:
    """How to fit: k, how often to alternate, the start's seed, conjugate-gradient steps a half-step, λ and q."""

    dimension: int
    iterations: int
    seed: int
    ridge: float
    rhs: Literal["c", "c-1"]
    steps: int = 3

    def __post_init__(self) -> None:
        if min(self.dimension, self.iterations, self.steps) < 1 or not self.ridge > 0:
            raise ValueError(f"dimension, iterations and steps must be at least 1, the ridge above 0: {self}")


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one round did: its number from 1, and the loss after its item half-step."""

    number: int
    of: int
    loss: float


def fit_items(
    by_user: csr_array, by_item: csr_array, training: Training, on_iteration: Callable[[Iteration], None]
) -> F32:
    """Item vectors (items, k) of a confidence matrix; the same bytes for the same matrix and seed.

    Args:
        by_user: (users, items) float64, c of each observed pair with ages counted from the user's newest event.
        by_item: (items, users) float64, c of the same pairs with ages counted from the training cut.
        training: the hyper-parameters.
        on_iteration: called after each round.
    """
    users, items = by_user.shape
    if by_item.shape != (items, users):
        raise ValueError(f"the two sides do not fit: {by_user.shape} and {by_item.shape}")
    draw = np.random.default_rng(training.seed)
    start = draw.standard_normal((items, training.dimension)) / np.sqrt(training.dimension)
    v: F32 = start.astype(np.float32)
    x = np.zeros((users, training.dimension), np.float32)
    for number in range(1, training.iterations + 1):
        half_step(by_user, v, x, training)
        loss = half_step(by_item, x, v, training)
        on_iteration(Iteration(number, training.iterations, loss))
    return v


def half_step(confidence: csr_array, fixed: F32, moving: F32, training: Training) -> float:
    """Lower the loss over every row of ``moving`` (n, k), in place, against ``fixed`` (m, k); returns the loss.

    ``confidence`` is (n, m). In place, because both matrices of a large catalogue are most of the memory.
    """
    gram = fixed.astype(np.float64).T @ fixed.astype(np.float64)
    system = (gram + training.ridge * np.eye(training.dimension)).astype(np.float32)
    loss = training.ridge * float(np.einsum("ij,ij->", fixed, fixed, dtype=np.float64))
    for rows, pairs in _passes(confidence.indptr):
        block = _Block(confidence, rows, pairs, fixed, system, training.rhs)
        loss += block.descend(moving[rows], training.steps)
    return loss


def _passes(indptr: npt.NDArray[Any]) -> Iterator[tuple[slice, slice]]:
    """Rows in runs of about `_PAIRS` pairs: (rows, their pairs); a row is never cut."""
    start, count = 0, len(indptr) - 1
    while start < count:
        end = int(np.searchsorted(indptr, indptr[start] + _PAIRS, side="right")) - 1
        end = min(max(end, start + 1), count, start + _PAIRS)
        yield slice(start, end), slice(int(indptr[start]), int(indptr[end]))
        start = end


class _Block:
    """The normal equations of a run of rows, applied without being formed."""

    def __init__(
        self, confidence: csr_array, rows: slice, pairs: slice, fixed: F32, system: F32, rhs: Literal["c", "c-1"]
    ) -> None:
        c: F64 = confidence.data[pairs]
        self.system = system
        self.vectors = fixed[confidence.indices[pairs]]
        self.indptr = confidence.indptr[rows.start : rows.stop + 1] - pairs.start
        self.lengths = np.diff(self.indptr)
        self.columns = np.arange(len(c), dtype=self.indptr.dtype)
        self.weight = (c - 1).astype(np.float32)
        q = c if rhs == "c" else c - 1
        self.target = self._gather(q.astype(np.float32))
        self.constant = float(np.sum(q * q / c))

    def _gather(self, values: F32) -> F32:
        """For each row, the sum of its pairs' vectors times ``values`` (pairs,); (rows, k)."""
        shape = (len(self.lengths), len(values))
        out: F32 = csr_array((values, self.columns, self.indptr), shape=shape) @ self.vectors
        return out

    def _apply(self, x: F32) -> F32:
        """A x of every row: (V'V + λI) x + sum (c - 1) (x.v) v."""
        scores = np.einsum("ij,ij->i", np.repeat(x, self.lengths, axis=0), self.vectors)
        out: F32 = x @ self.system + self._gather(self.weight * scores)
        return out

    def descend(self, x: F32, steps: int) -> float:
        """Take conjugate-gradient steps on ``x`` (rows, k) in place; returns these rows' share of the loss."""
        residual = self.target - self._apply(x)
        direction = residual.copy()
        size = _dots(residual, residual)
        for _ in range(steps):
            applied = self._apply(direction)
            curvature = _dots(direction, applied)
            # A row that is already solved has no direction left: its step is 0, not 0/0.
            step = np.divide(size, curvature, out=np.zeros_like(size), where=curvature > 0)
            x += step[:, None] * direction
            residual -= step[:, None] * applied
            previous, size = size, _dots(residual, residual)
            turn = np.divide(size, previous, out=np.zeros_like(size), where=previous > 0)
            direction = residual + turn[:, None] * direction
        # f(x) = -(b + r).x at any x, so the loss costs nothing more.
        return self.constant - float(np.einsum("ij,ij->", self.target + residual, x, dtype=np.float64))


def _dots(a: F32, b: F32) -> F32:
    return np.asarray(np.einsum("ij,ij->i", a, b), np.float32)
