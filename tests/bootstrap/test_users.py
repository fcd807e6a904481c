"""The last half-step: the stream's solver, audited against its reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from bootstrap import users as solving
from bootstrap.columns import columns_of
from bootstrap.fold import fold
from bootstrap.matrix import Matrix, build
from bootstrap.users import padded, solve_users, space_of
from streamer.factors.solve import Solution, solve_batch, solve_cholesky
from tests.bootstrap.small import KEY, NOW_MS, changed, event

if TYPE_CHECKING:
    from tests.bootstrap.small import Made, Reading


def matrix_of(made: Made) -> Matrix:
    policy = made.manifest.policy
    columns, _ = columns_of(made.log, policy, KEY)
    return build(columns, fold(columns, policy), policy, NOW_MS)


def test_every_user_equals_the_reference(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """However users are cut into stacks, each vector is within 1e-5 of the float64 Cholesky solve."""
    monkeypatch.setattr(solving, "_USERS", 17)
    policy, matrix = made.manifest.policy, matrix_of(made)
    space = space_of(matrix, made.model.items, policy)
    solved = solve_users(matrix, space, policy, 1e-6)
    for user, (start, end) in enumerate(zip(matrix.by_user.indptr, matrix.by_user.indptr[1:], strict=False)):
        exact = solve_cholesky(space, matrix.entry_item[start:end], matrix.by_user.data[start:end], policy.rhs)
        np.testing.assert_allclose(solved.vectors[user], exact if end > start else solved.average, atol=1e-5)
    assert solved.parity_error < 1e-5
    np.testing.assert_allclose(solved.vectors, made.model.user_vectors, atol=1e-5)


def test_the_audit_sees_a_wrong_solver(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the batched solver drifted from the reference, the parity error would say so."""

    def wrong(*arguments: object) -> Solution:
        solution = solve_batch(*arguments)  # type: ignore[arg-type]
        solution.vectors[:] *= 1.001
        return solution

    monkeypatch.setattr(solving, "solve_batch", wrong)
    policy, matrix = made.manifest.policy, matrix_of(made)
    assert solve_users(matrix, space_of(matrix, made.model.items, policy), policy, 1e-6).parity_error > 1e-4


def test_a_user_without_history_gets_the_average(reading: Reading) -> None:
    """And does not move it."""
    policy = changed()
    log = reading(event("u", "a", "hide"), event("v", "a"), event("w", "a"))
    columns, _ = columns_of(log, policy, KEY)
    matrix = build(columns, fold(columns, policy), policy, NOW_MS)
    solved = solve_users(matrix, space_of(matrix, np.ones((1, 4), np.float32), policy), policy, 1e-6)
    np.testing.assert_allclose(solved.vectors[0], solved.average)
    np.testing.assert_allclose(solved.average, solved.vectors[1], rtol=1e-6)


def test_padding_keeps_order_and_marks_the_rest() -> None:
    """Unused places are -1, so that no solver takes them for item 0."""
    index, c = padded(
        np.array([0, 2, 2, 3]), np.array([5, 0, 7], np.int32), np.array([2.0, 3.0, 4.0]), np.array([2, 0, 1])
    )
    assert index.tolist() == [[7, -1], [5, 0], [-1, -1]]
    assert c.tolist() == [[4, 0], [2, 3], [0, 0]]
