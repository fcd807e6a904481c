"""Trained vectors beside the served ones, by the served ones' numbers."""

from __future__ import annotations

import numpy as np

from streamer.factors.frozen import FrozenItems
from streamer.factors.solve import solve_cholesky
from streamer.factors.space import ItemSpace


def space_of(ids: list[str], vectors: np.ndarray, weights: np.ndarray | None = None) -> ItemSpace:
    space = ItemSpace(vectors.shape[1], 0.5)
    index = space.add(ids, np.arange(1, len(ids) + 1, dtype=np.uint64))
    space.put(index, vectors.astype(np.float32), weights)
    space.refactor()
    return space


def test_an_item_that_came_later_is_not_known_and_the_others_keep_their_vectors() -> None:
    """In another order than they were trained in, and one that the served space has no more."""
    draw = np.random.default_rng(0)
    trained = draw.standard_normal((3, 4)).astype(np.float32)
    frozen = FrozenItems(space_of(["a", "b", "gone"], trained), ["late", "b", "a"])
    assert frozen.known.tolist() == [False, True, True]
    assert frozen.vectors.tolist() == [[0.0] * 4, trained[1].tolist(), trained[0].tolist()]
    assert frozen.knows(np.array([[-1, 0, 1], [2, 3, 9]])).tolist() == [[False, False, True], [True, False, False]]
    np.testing.assert_allclose(frozen.gramian, trained.astype(np.float64).T @ trained, rtol=1e-6)


def test_users_are_solved_against_what_was_trained_whatever_moves() -> None:
    """Also where unobserved pairs have weights: the Gramian is the weighted one."""
    draw = np.random.default_rng(1)
    vectors, weights = draw.standard_normal((9, 4)), draw.random(9) + 0.1
    ids = [f"i{number}" for number in range(9)]
    served, still = space_of(ids, vectors, weights), space_of(ids, vectors, weights)
    frozen = FrozenItems(served, served.ids)
    served.put(np.array([2], np.int32), np.full((1, 4), 3, np.float32), np.array([7.0]))
    history, confidence = np.array([1, 2, 5]), np.array([2.0, 3.0, 4.0])
    expected = solve_cholesky(still, history, confidence, "c")
    np.testing.assert_allclose(solve_cholesky(frozen, history, confidence, "c"), expected, rtol=1e-5)
