"""Implicit ALS over a confidence matrix: alternate half-steps until the item vectors stand.

With confidences c >= 1 of the observed pairs, q = c or c - 1 (the policy's right-hand side) and ridge λ, a half-step
lowers, for every row x against the fixed vectors v::

    f(x) = x'(V'V + λI)x + sum (c - 1)(x.v)^2 - 2 sum q (x.v)

solver "cg" takes a few steps of conjugate gradients from where the row was. They are taken where V'V is diagonal::

    V'V = Q diag(g) Q'      rows v Q, x Q      system  diag(g + λ) + sum (c - 1) v v'

There the part of all the unobserved pairs costs k numbers a step instead of k^2, and diag(g + λ) is a preconditioner
for nothing. A step can only lower f, so the loss below never rises while both half-steps see the same confidences;
with decay they do not (a user's ages count from the user's newest event, an item's from the training cut), and each
half-step then lowers its own loss::

    L = sum over all pairs w (x.v)^2 + sum (c - 1)(x.v)^2 - 2 q (x.v) + q^2/c + sum λ|x|^2 + sum λ_items |v|^2

A row's own ridge is a diagonal of its own there, so it costs k more numbers a row: with ``ridge_nu`` above 0 it is
``λ (n + alpha0 m)^nu`` for n pairs of the row and m rows of the other side that have any (Rendle et al. 2022, doi
10.1145/3523227.3548486).

With ``weights`` w of the items' unobserved pairs, V'V becomes V' diag(w) V for the users, and V'V of an item's own
half-step w times X'X, diag(w g + λ); an observed pair always weighs c - 1 more than an unobserved one of its item.

solver "cholesky" solves each row exactly. `bootstrap.kernel` takes the same steps compiled, where numba is installed.
Only the item vectors leave this file; the published user vectors come from the stream's own solver (`users.py`).
"""

from __future__ import annotations

import importlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from streamer.factors.gram import gramian
from streamer.factors.ridge import Ridge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

# Pairs a pass. Their gathered vectors (2 MB at k = 64) stay in the cache through all steps of the pass.
_PAIRS = 8192
# Passes that a thread takes at once where the kernel gathers nothing.
_TOGETHER = 32
_TINY = np.float32(1e-30)
# Small: the first rounds then find the strongest directions first, which ends a little higher.
_START = 0.01


@dataclass(frozen=True, slots=True)
class Training:
    """How to fit.

    dimension: k; iterations: how often to alternate at most; seed: of the start; ridge: λ of the users; rhs: q;
    ridge_items: λ of the items, 0 for the users'; solver, and steps of conjugate gradients a half-step; patience: stop
    when the loss has fallen by less than this share of itself in a round (0: never); threads: 0 for as many as there
    are processors, which changes no bit of the result; ridge_nu, ridge_alpha0: how the ridges of both sides grow with
    the number of pairs, see the module.
    """

    dimension: int
    iterations: int
    seed: int
    ridge: float
    rhs: Literal["c", "c-1"]
    steps: int = 3
    solver: Literal["cg", "cholesky"] = "cg"
    patience: float = 0.0
    threads: int = 0
    ridge_items: float = 0.0
    ridge_nu: float = 0.0
    ridge_alpha0: float = 0.0

    @property
    def ridges(self) -> tuple[float, float]:
        """λ of the users and of the items."""
        return self.ridge, self.ridge_items or self.ridge

    def __post_init__(self) -> None:
        if min(self.dimension, self.iterations, self.steps) < 1 or not self.ridge > 0:
            raise ValueError(f"dimension, iterations and steps must be at least 1, the ridge above 0: {self}")
        if not (0 <= self.patience < 1 and self.threads >= 0 and self.ridge_items >= 0):
            raise ValueError(f"patience must be from 0 to below 1, threads and ridge_items 0 or more: {self}")
        if not (0 <= self.ridge_nu <= 1 and self.ridge_alpha0 >= 0):
            raise ValueError(f"ridge_nu must be from 0 to 1, ridge_alpha0 0 or more: {self}")

    def ridges_of(self, ridge: float, pairs: npt.NDArray[np.integer], others: int) -> F64:
        """The ridge of each row (n,) of so many pairs; others: how many rows of the other side have a pair."""
        if not self.ridge_nu:
            return np.full(len(pairs), ridge)
        # A row without pairs is solved by zeros whatever its ridge is; it must not be 0.
        return Ridge(ridge, self.ridge_nu, self.ridge_alpha0 * others).of_all(np.maximum(pairs, 1))


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one round did: its number from 1, and the loss after its item half-step."""

    number: int
    of: int
    loss: float


def has_settled(before: float, loss: float, patience: float) -> bool:
    """Has the loss fallen by less than this share of itself? Never with a patience of 0, also where it rises."""
    return patience > 0 and before - loss < patience * abs(loss)


def fit_items(
    by_user: csr_array,
    by_item: csr_array,
    training: Training,
    on_iteration: Callable[[Iteration], None],
    start: F32 | None = None,
    weights: F64 | None = None,
) -> F32:
    """Item vectors (items, k) of a confidence matrix; the same bytes for the same matrix, seed and start.

    Args:
        by_user: (users, items) float64, c of each observed pair with ages counted from the user's newest event.
        by_item: (items, users) float64, c of the same pairs with ages counted from the training cut.
        training: the hyper-parameters.
        on_iteration: called after each round.
        start: (items, k), where to begin: a row that is not finite begins at random, as all do without it.
        weights: (items,), what an unobserved pair of each item weighs; None for 1.
    """
    users, items = by_user.shape
    if by_item.shape != (items, users):
        raise ValueError(f"the two sides do not fit: {by_user.shape} and {by_item.shape}")
    v = first_items(training.seed, items, training.dimension)
    if start is not None:
        if start.shape != v.shape:
            raise ValueError(f"the start {start.shape} does not fit {v.shape}")
        v = np.where(np.isfinite(start).all(axis=1, keepdims=True), start, v)
    x = np.zeros((users, training.dimension), np.float32)
    before = np.inf
    for number in range(1, training.iterations + 1):
        half_step(by_user, v, x, training, weights=weights)
        loss = half_step(by_item, x, v, training, items=True, weights=weights)
        on_iteration(Iteration(number, training.iterations, loss))
        if has_settled(before, loss, training.patience):
            break
        before = loss
    return v


def first_items(seed: int, items: int, dimension: int) -> F32:
    """Where the item vectors (items, k) begin: in every direction, about `_START` long."""
    draw = np.random.default_rng(seed).standard_normal((items, dimension))
    v: F32 = (draw * (_START / np.sqrt(dimension))).astype(np.float32)
    return v


def half_step(
    confidence: csr_array,
    fixed: F32,
    moving: F32,
    training: Training,
    *,
    items: bool = False,
    weights: F64 | None = None,
) -> float:
    """Lower the loss over every row of ``moving`` (n, k), in place, against ``fixed`` (m, k); returns the loss.

    ``confidence`` is (n, m); ``items``: the rows that move are the items; ``weights``: of the items, None for 1. In
    place, because both matrices of a large catalogue are most of the memory.
    """
    ridge, other = reversed(training.ridges) if items else training.ridges
    # Of each row of the other side. Rows without a pair are nobody: users who hid things alone, or came after the cut.
    pairs, own = np.bincount(confidence.indices, minlength=len(fixed)), np.diff(confidence.indptr)
    values, axes = np.linalg.eigh(gramian(fixed, None if items else weights))
    # Exact is exact to what float32 can hold of the result: turned and solved in float64.
    axes = axes if training.solver == "cholesky" else axes.astype(np.float32)
    side = _Side(
        confidence.astype(np.float64, copy=False),
        np.ascontiguousarray(fixed @ axes),
        values,
        weights if weights is not None and items else np.ones(len(moving)),
        training.ridges_of(ridge, own, int(np.count_nonzero(pairs))),
        axes,
        training,
    )
    loss = other * float(np.einsum("ij,ij->", fixed, fixed, dtype=np.float64))
    if training.ridge_nu:
        lengths = np.einsum("ij,ij->i", fixed, fixed, dtype=np.float64)
        loss = float(training.ridges_of(other, pairs, int(np.count_nonzero(own))) @ lengths)
    with ThreadPoolExecutor(training.threads or os.cpu_count() or 1, "als") as pool:
        # Added up in their order, whoever came first.
        for share in pool.map(lambda rows: side.lower(rows, moving), _runs(confidence.indptr)):
            loss += share
    return loss


@dataclass(frozen=True, slots=True)
class _Side:
    """One half-step's problem.

    rows: (m, k) fixed vectors, values: (k,) the Gramian's diagonal, both where it is diagonal; weights, ridges: (n,)
    make the diagonal of a row's system of it. rows and axes (k, k) are float64 for the exact solver, else float32.
    """

    confidence: csr_array
    rows: F32 | F64
    values: F64
    weights: F64
    ridges: F64
    axes: F32 | F64
    training: Training

    def lower(self, run: slice, moving: F32) -> float:
        """Move a run of rows; returns their share of the loss."""
        x = np.ascontiguousarray(moving[run] @ self.axes)
        matrix, right = self.confidence, self.training.rhs
        kernel = _kernel() if self.training.solver == "cg" else None
        if kernel is not None:
            one = np.float32(right == "c")
            share = float(
                kernel(
                    matrix.indptr, matrix.indices, matrix.data, run.start, run.stop, self.rows, self.values,
                    self.weights, self.ridges, one, self.training.steps, x,
                )
            )  # fmt: skip
        else:
            share = 0.0
            for part, pairs in _passes(matrix.indptr[run.start : run.stop + 1]):
                block = _Block(matrix, slice(run.start + part.start, run.start + part.stop), pairs, self, right)
                if self.training.solver == "cholesky":
                    share += block.solve(x[part])
                else:
                    share += block.descend(x[part], self.training.steps)
        moving[run] = x @ self.axes.T
        return share


@cache
def _kernel() -> Any:
    """The compiled half-step, None where there is no compiler."""
    try:
        return importlib.import_module("bootstrap.kernel").descend
    except ImportError:
        return None


def _runs(indptr: npt.NDArray[Any]) -> list[slice]:
    """Rows in runs of many passes: what one thread takes at once."""
    starts = [rows.start for rows, _ in _passes(indptr)][::_TOGETHER]
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(indptr) - 1], strict=True)]


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

    def __init__(self, confidence: csr_array, rows: slice, pairs: slice, side: _Side, rhs: Literal["c", "c-1"]) -> None:
        c: F64 = confidence.data[pairs]
        ridges = side.ridges[rows, None]
        kind: Any = side.rows.dtype
        self.diagonal = np.maximum(side.weights[rows, None] * side.values + ridges, ridges).astype(kind)
        self.vectors = side.rows[confidence.indices[pairs]]
        self.indptr = confidence.indptr[rows.start : rows.stop + 1] - pairs.start
        self.lengths = np.diff(self.indptr)
        self.columns = np.arange(len(c), dtype=self.indptr.dtype)
        self.weight = (c - 1).astype(kind)
        q = c if rhs == "c" else c - 1
        self.target = self._gather(q.astype(kind))
        self.constant = float(np.sum(q * q / c))

    def _gather(self, values: F32) -> F32:
        """For each row, the sum of its pairs' vectors times ``values`` (pairs,); (rows, k)."""
        shape = (len(self.lengths), len(values))
        out: F32 = csr_array((values, self.columns, self.indptr), shape=shape) @ self.vectors
        return out

    def _apply(self, x: F32) -> F32:
        """A x of every row: diag(g + λ) x + sum (c - 1) (x.v) v."""
        scores = np.einsum("ij,ij->i", np.repeat(x, self.lengths, axis=0), self.vectors)
        out: F32 = x * self.diagonal + self._gather(self.weight * scores)
        return out

    def descend(self, x: F32, steps: int) -> float:
        """Take conjugate-gradient steps on ``x`` (rows, k) in place; returns these rows' share of the loss."""
        residual = self.target - self._apply(x)
        direction = residual / self.diagonal
        size = _dots(residual, direction)
        for _ in range(steps):
            applied = self._apply(direction)
            curvature = _dots(direction, applied)
            # A row that is already solved has no direction left: its step is 0, not 0/0.
            step = np.divide(size, curvature, out=np.zeros_like(size), where=curvature > _TINY)
            x += step[:, None] * direction
            residual -= step[:, None] * applied
            turned = residual / self.diagonal
            previous, size = size, _dots(residual, turned)
            turn = np.divide(size, previous, out=np.zeros_like(size), where=previous > _TINY)
            direction = turned + turn[:, None] * direction
        # f(x) = -(b + r).x at any x, so the loss costs nothing more.
        return self.constant - float(np.einsum("ij,ij->", self.target + residual, x, dtype=np.float64))

    def solve(self, x: F32) -> float:
        """Solve every row of ``x`` exactly, in float64; returns these rows' share of the loss."""
        for row, (start, end) in enumerate(zip(self.indptr, self.indptr[1:], strict=False)):
            v = self.vectors[start:end]
            system = np.diag(self.diagonal[row]) + (v * self.weight[start:end, None]).T @ v
            x[row] = np.linalg.solve(system, self.target[row])
        return self.constant - float(np.einsum("ij,ij->", self.target, x, dtype=np.float64))


def _dots(a: F32, b: F32) -> F32:
    return np.asarray(np.einsum("ij,ij->i", a, b), np.float32)
