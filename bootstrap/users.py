"""The last half-step: every user's vector from the stream's own solver, so that both agree to 1e-5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bootstrap.matrix import weights_of
from streamer.factors.coldstart import average_user
from streamer.factors.guard import guard
from streamer.factors.ridge import ridge_of
from streamer.factors.solve import solve_batch, solve_cholesky
from streamer.factors.space import ItemSpace

if TYPE_CHECKING:
    from bootstrap.matrix import Matrix
    from schemas.records import Policy
    from streamer.factors.ridge import Ridge

F32 = npt.NDArray[np.float32]

_USERS = 4096
_AUDITED = 256


@dataclass(frozen=True, slots=True)
class Solved:
    """All user vectors.

    vectors: (n, k) float32, the average user where a history has no known item; average: (k,) float32;
    parity_error: the largest distance of the audited vectors from the reference solver's, relative to their norm.
    """

    vectors: F32
    average: F32
    parity_error: float


def space_of(matrix: Matrix, items: F32, policy: Policy) -> ItemSpace:
    """The space that a worker would build from these item vectors (m, k)."""
    # Projected items (`matrix.widened`) had no part in the training, and have none in the ridge.
    ridge = ridge_of(policy, matrix.by_item.shape[0])
    return space_of_items(matrix.item_ids, matrix.hashes, items, weights_of(matrix, policy.unobserved_power), ridge)


def space_of_items(
    item_ids: list[str],
    hashes: npt.NDArray[np.uint64],
    items: F32,
    weights: npt.NDArray[np.float64] | None,
    ridge: Ridge,
) -> ItemSpace:
    """The same of items with these ids, hashes (m,), weights (m,), None for 1, and this ridge of the users."""
    space = ItemSpace(items.shape[1], ridge, capacity=max(len(items), 1))
    space.put(space.add(item_ids, hashes), items, weights)
    space.recount()
    space.refactor()
    return space


def solve_users(matrix: Matrix, space: ItemSpace, policy: Policy, tolerance: float) -> Solved:
    """Solve every user of the matrix, a few thousand at a time, users with equally long histories together."""
    indptr = matrix.by_user.indptr
    n, lengths = len(indptr) - 1, np.diff(indptr)
    vectors = np.zeros((n, space.dimension), np.float32)
    for part in np.array_split(np.argsort(lengths, kind="stable"), max(1, -(-n // _USERS))):
        index, c = padded(indptr, matrix.entry_item, matrix.confidence, part)
        vectors[part] = vectors_of(space, index, c, policy, tolerance, np.zeros(space.dimension, np.float32))
    error = _audit(matrix, space, policy, vectors)
    average = average_user(vectors)
    vectors[lengths == 0] = average
    return Solved(vectors, average, error)


def vectors_of(
    space: ItemSpace,
    index: npt.NDArray[np.int32],
    confidence: npt.NDArray[np.float64],
    policy: Policy,
    tolerance: float,
    average: F32,
) -> F32:
    """Solve and guard a stack of users as a worker does; ``average`` (k,) stands in where no item is known."""
    solution = solve_batch(space, index, confidence, policy.rhs, None, tolerance)
    vectors = guard(solution.vectors, policy.norm_cap).vectors
    return np.where(solution.empty[:, None], average, vectors)


def padded(
    indptr: npt.NDArray[np.integer],
    item: npt.NDArray[np.int32],
    confidence: npt.NDArray[np.float64],
    rows: npt.NDArray[np.intp],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """The rows (B,) of a ragged matrix side by side: item numbers (B, H), -1 where unused, and confidences (B, H)."""
    start, lengths = indptr[rows], np.diff(indptr)[rows]
    width = int(lengths.max(initial=1))
    used = np.arange(width) < lengths[:, None]
    at = (start[:, None] + np.arange(width))[used]
    index, c = np.full(used.shape, -1, np.int32), np.zeros(used.shape)
    index[used], c[used] = item[at], confidence[at]
    return index, c


def _audit(matrix: Matrix, space: ItemSpace, policy: Policy, vectors: F32) -> float:
    """Solve a spread of users, those with the longest histories first, by the float64 reference and compare."""
    indptr = matrix.by_user.indptr
    order = np.argsort(-np.diff(indptr), kind="stable")
    order = order[: np.count_nonzero(np.diff(indptr))]
    if not len(order):
        return 0.0
    chosen = np.unique(np.linspace(0, len(order) - 1, min(_AUDITED, len(order))).astype(int))
    worst = 0.0
    for user in order[chosen].tolist():
        row = slice(indptr[user], indptr[user + 1])
        exact = solve_cholesky(space, matrix.entry_item[row], matrix.confidence[row], policy.rhs)
        exact = guard(exact[None], policy.norm_cap).vectors[0]
        distance = float(np.abs(vectors[user].astype(np.float64) - exact).max())
        worst = max(worst, distance / max(1.0, float(np.linalg.norm(exact))))
    return worst
