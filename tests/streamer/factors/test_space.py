"""The item space: Gramian, whitening and indexes stay true while vectors come and move."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.factors.ridge import Ridge
from streamer.factors.space import MAX_REMAINDER, ItemSpace

K = 5


def filled(items: int, *, ridge: float | Ridge = 0.5, seed: int = 0, k: int = K) -> ItemSpace:
    """A space of `items` random vectors, whitened."""
    random = np.random.default_rng(seed)
    space = ItemSpace(k, ridge, capacity=4)
    index = space.add([f"i{n}" for n in range(items)], random.integers(1, 2**63, items).astype(np.uint64))
    space.put(index, random.standard_normal((items, k)).astype(np.float32))
    space.refactor()
    return space


def operator(space: ItemSpace) -> np.ndarray:
    """G + ridge I, put together again from what the solver uses."""
    remainder = space.remainder()
    inner = np.eye(space.dimension) + (0 if remainder is None else remainder)
    forth = space.whiten(np.eye(space.dimension, dtype=np.float32)).astype(np.float64)
    return forth @ inner @ forth.T


@given(
    puts=st.lists(st.lists(st.tuples(st.integers(0, 11), st.integers(-3, 3)), max_size=12), max_size=8),
    early=st.booleans(),
    nu=st.sampled_from([0.0, 0.5]),
)
def test_gramian_and_operator_follow_every_put(*, puts: list[list[tuple[int, int]]], early: bool, nu: float) -> None:
    """After any puts, duplicates and zeros among them, G = V'V and the whitened system is the true one."""
    space = filled(12, ridge=Ridge(0.25, nu, 3.0) if nu else 0.5)
    twin = {n: row.copy() for n, row in enumerate(space.vectors)}
    for put in puts:
        rows = np.array([[value, n, 1, 0, value * n] for n, (_, value) in enumerate(put)], np.float32)
        space.put(np.array([at for at, _ in put], np.int32), rows.reshape(-1, K))
        twin.update({at: row for (at, _), row in zip(put, rows, strict=True)})
        if early:
            space.remainder()
    vectors = np.stack([twin[n] for n in range(12)])
    assert np.array_equal(space.vectors, vectors)
    exact = vectors.astype(np.float64).T @ vectors.astype(np.float64)
    assert np.allclose(space.gramian, exact, rtol=1e-12, atol=1e-10)
    assert np.allclose(operator(space), exact + 0.5 * np.eye(K), rtol=1e-5, atol=1e-4)
    again = space.whiten(space.unwhiten(space.whitened))
    assert np.allclose(again, space.whitened, rtol=1e-4, atol=1e-5)
    assert np.allclose(space.leverage, np.square(space.whitened).sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("known", [1, 2, 7, 400])
def test_a_users_own_ridge_is_a_scale_of_the_whitened_coordinates(known: int) -> None:
    """L S^-1 (I + S R S) S^-1 L' = G + ridge_u I, while vectors move, too."""
    space = filled(60, ridge=Ridge(0.5, 0.75, 2.0))
    space.put(np.array([3, 4], np.int32), space.vectors[3:5] * np.float32(1.02))
    remainder, scale = space.remainder(), space.scale(np.array([known]))
    assert remainder is not None
    assert scale is not None
    forth = space.whiten(np.eye(K, dtype=np.float32)).astype(np.float64) / scale
    system = forth @ (np.eye(K) + scale.T * remainder * scale) @ forth.T
    assert np.allclose(system, space.gramian + 0.5 * (known + 2.0) ** 0.75 * np.eye(K), rtol=1e-5, atol=1e-4)
    assert filled(60).scale(np.array([known])) is None


@given(
    puts=st.lists(
        st.lists(st.tuples(st.integers(0, 11), st.integers(-3, 3), st.sampled_from([1.0, 0.25, 3.0])), max_size=12),
        max_size=6,
    )
)
def test_a_weighted_gramian_follows_every_put(puts: list[list[tuple[int, int, float]]]) -> None:
    """G = V' diag(w) V after any puts with any weights, and so does a fresh count of it."""
    space, weights = filled(12), np.ones(12)
    for put in puts:
        rows = np.array([[value, n, 1, 0, value * n] for n, (_, value, _) in enumerate(put)], np.float32)
        given_weights = np.array([weight for *_, weight in put])
        space.put(np.array([at for at, *_ in put], np.int32), rows.reshape(-1, K), given_weights)
        for at, _, weight in put:
            weights[at] = weight
    wide = space.vectors.astype(np.float64)
    exact = (wide.T * weights) @ wide
    assert np.array_equal(space.weights, weights)
    assert np.allclose(space.gramian, exact, rtol=1e-12, atol=1e-10)
    assert space.recount() < 1e-12
    assert np.allclose(operator(space), exact + 0.5 * np.eye(K), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    """Before anything of it is taken."""
    space = filled(3)
    before = space.gramian.copy()
    with pytest.raises(ValueError, match="weight is not above 0"):
        space.put(np.array([0], np.int32), space.vectors[:1], np.array([weight]))
    assert np.array_equal(space.gramian, before)


def test_small_moves_leave_a_remainder_large_ones_whiten_anew() -> None:
    """The remainder is exact and bounded; past the bound it is zero again."""
    space = filled(200)
    assert space.remainder() is None
    space.put(np.array([3], np.int32), space.vectors[3:4] + np.float32(0.01))
    small = space.remainder()
    assert small is not None
    assert 0 < np.linalg.norm(small) <= MAX_REMAINDER
    assert space.remainder() is small
    space.put(np.array([4], np.int32), space.vectors[4:5] * np.float32(50))
    assert space.remainder() is None
    assert np.allclose(operator(space), space.gramian + 0.5 * np.eye(K), rtol=1e-5, atol=1e-2)


def test_the_same_vectors_again_leave_no_remainder() -> None:
    """Rounding alone is not a move."""
    space = filled(50)
    space.put(np.arange(50, dtype=np.int32), space.vectors.copy())
    assert space.remainder() is None


def test_recount_measures_drift_and_ends_it() -> None:
    """A thousand rank-one updates drift by rounding only; a planted error is found and removed."""
    space, random = filled(40), np.random.default_rng(5)
    for _ in range(1000):
        at = random.integers(0, 40, 1).astype(np.int32)
        space.put(at, random.standard_normal((1, K)).astype(np.float32))
    assert space.recount() < 1e-13
    space.gramian[0, 0] *= 1.01
    assert space.recount() > 1e-4
    assert space.recount() == 0.0


def test_items_are_found_by_id_and_by_hash() -> None:
    """New items get indexes in order of appearance, known ones keep theirs; unknown is -1."""
    space = ItemSpace(2, 1.0, capacity=0)
    assert space.add(["a", "b"], np.array([11, 12], np.uint64)).tolist() == [0, 1]
    assert space.add(["c", "a", "c"], np.array([13, 11, 13], np.uint64)).tolist() == [2, 0, 2]
    assert (space.size, space.ids) == (3, ["a", "b", "c"])
    assert [space.index_of(item) for item in ("c", "nobody")] == [2, -1]
    assert space.lookup(np.array([[13, 99], [0, 11]], np.uint64)).tolist() == [[2, -1], [-1, 0]]
    assert space.vectors.tolist() == [[0, 0]] * 3
    assert space.versions.tolist() == [0, 0, 0]


def test_colliding_hashes_are_refused_and_counted() -> None:
    """Two ids of one hash would share a vector: the second is refused, within a call and across calls; so is 0."""
    space = ItemSpace(2, 1.0)
    index = space.add(["a", "b", "c", "d"], np.array([1, 1, 2, 0], np.uint64))
    assert index.tolist() == [0, -1, 1, -1]
    assert space.add(["e"], np.array([2], np.uint64)).tolist() == [-1]
    assert space.collisions == 3
    assert space.index_of("b") == -1


def test_growth_keeps_everything() -> None:
    """Adding items one by one keeps vectors, versions, whitening and indexes."""
    space = ItemSpace(3, 1.0, capacity=1)
    for n in range(50):
        index = space.add([str(n)], np.array([1000 + n], np.uint64))
        space.put(index, np.full((1, 3), n, np.float32))
        space.versions[n] = n
    assert space.versions.tolist() == list(range(50))
    assert space.vectors[:, 0].tolist() == list(range(50))
    assert space.lookup(np.arange(1000, 1050, dtype=np.uint64)).tolist() == list(range(50))
    assert len(space.leverage) == len(space.whitened) == 50


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_numbers_never_get_in(bad: float) -> None:
    """One NaN in the Gramian would spoil every user: the put is refused whole."""
    space = filled(3)
    gramian = space.gramian.copy()
    with pytest.raises(ValueError, match="not finite"):
        space.put(np.array([0, 1], np.int32), np.array([[1] * K, [bad] * K], np.float32))
    assert np.array_equal(space.gramian, gramian)


def test_wrong_shapes_and_indexes_are_refused() -> None:
    """Shapes and bounds are checked at the door."""
    space = filled(3)
    with pytest.raises(ValueError, match="do not fit"):
        space.put(np.array([0], np.int32), np.zeros((1, K + 1), np.float32))
    for index in (-1, 3):
        with pytest.raises(IndexError):
            space.put(np.array([index], np.int32), np.zeros((1, K), np.float32))
    with pytest.raises(ValueError, match="ridge"):
        ItemSpace(K, 0.0)
    space.put(np.zeros(0, np.int32), np.zeros((0, K), np.float32))
