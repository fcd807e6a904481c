"""Solving: the reference is the normal equations, the batch is the reference to 1e-5."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import cho_factor, cho_solve

from streamer.factors import solve
from streamer.factors.ridge import Ridge
from streamer.factors.solve import solve_batch, solve_cholesky
from streamer.factors.space import ItemSpace
from tests.streamer.factors import twins

TOLERANCE = 4e-6


def space_of(items: int, k: int, *, ridge: float = 10.0, seed: int = 0) -> ItemSpace:
    """Item vectors with a decaying spectrum and a few long ones, as ALS leaves them."""
    random = np.random.default_rng(seed)
    space = ItemSpace(k, ridge)
    spectrum = (1 + np.arange(k)) ** -0.4
    length = 0.1 + (1 + np.arange(items)) ** -0.3
    vectors = random.standard_normal((items, k)) * spectrum * length[:, None]
    index = space.add([str(n) for n in range(items)], random.integers(1, 2**63, items).astype(np.uint64))
    space.put(index, vectors.astype(np.float32))
    space.refactor()
    return space


def histories(items: int, users: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indexes, -1 at any place, short histories and empty ones among them; confidences."""
    random = np.random.default_rng(seed)
    index = np.minimum(items * random.random((users, width)) ** 3, items - 1).astype(np.int32)
    index[random.random((users, width)) < 0.1] = -1
    index[np.arange(width) >= random.integers(0, width + 1, users)[:, None]] = -1
    return index, 1 + 5 * np.log1p(5 * random.random((users, width)))


def errors(vectors: np.ndarray, exact: np.ndarray) -> np.ndarray:
    scale = np.maximum(np.linalg.norm(exact, axis=1), 1e-30)
    relative: np.ndarray = np.linalg.norm(vectors - exact, axis=1) / scale
    return relative


def references(space: ItemSpace, index: np.ndarray, confidence: np.ndarray, rhs: str) -> np.ndarray:
    return np.stack([solve_cholesky(space, row, c, rhs) for row, c in zip(index, confidence, strict=True)])


@pytest.mark.parametrize("nu", [0.3, 1.0])
@pytest.mark.parametrize("rhs", ["c", "c-1"])
def test_ridges_of_their_own(nu: float, rhs: str) -> None:
    """Each user's is of the known items; both solvers, with vectors that have moved, and from a start or from zero."""
    space = space_of(300, 16, ridge=0.4)
    space.rule = Ridge(0.4, nu, 5.0)
    space.ridge = space.rule.floor
    space.refactor()
    space.put(np.arange(4, dtype=np.int32), space.vectors[:4] * np.float32(1.01))
    assert space.remainder() is not None
    index, confidence = histories(300, 200, 40)
    exact = references(space, index, confidence, rhs)
    for row, c, vector in zip(index, confidence, exact, strict=True):
        if (row >= 0).any():
            ridge = 0.4 * ((row >= 0).sum() + 5.0) ** nu
            true = twins.normal_equations(space.vectors, ridge, row.tolist(), c.tolist(), rhs)
            assert np.allclose(vector, true, rtol=1e-5, atol=1e-6)
    for start in (None, exact * np.float32(1.1)):
        found = solve_batch(space, index, confidence, rhs, start, 1e-6)
        assert errors(found.vectors, exact).max() <= 1e-5
        assert found.fallbacks == 0


@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.sampled_from(["c", "c-1"]))
def test_reference_solves_the_normal_equations(seed: int, entries: int, rhs: str) -> None:
    """Against one outer product at a time: duplicates and unknown items as they come."""
    space, random = space_of(30, 6), np.random.default_rng(seed)
    index = random.integers(-1, 30, entries).astype(np.int32)
    confidence = 1 + 100 * random.random(entries)
    exact = twins.normal_equations(space.vectors, space.ridge, index.tolist(), confidence.tolist(), rhs)
    assert np.allclose(solve_cholesky(space, index, confidence, rhs), exact, rtol=1e-5, atol=1e-7)


def test_reference_has_the_bytes_of_its_description() -> None:
    """Whoever repeats the documented operations gets the same bits, in history order."""
    space = space_of(400, 16)
    index, confidence = histories(400, 20, 30)
    for row, c in zip(index, confidence, strict=True):
        v, known = space.vectors[row[row >= 0]].astype(np.float64), c[row >= 0]
        a = space.gramian + space.ridge * np.eye(16)
        a += (v * (known - 1)[:, None]).T @ v
        again = cho_solve(cho_factor(a, lower=True), v.T @ known).astype(np.float32)
        assert np.array_equal(solve_cholesky(space, row, c, "c"), again)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    users=st.integers(0, 12),
    width=st.integers(0, 40),
    rhs=st.sampled_from(["c", "c-1"]),
    warm=st.booleans(),
    moved=st.booleans(),
)
def test_batch_is_the_reference(*, seed: int, users: int, width: int, rhs: str, warm: bool, moved: bool) -> None:
    """Every user within 1e-5 of float64 Cholesky: cold or warm, with or without a remainder."""
    space = space_of(300, 12, seed=seed % 5)
    if moved:
        space.put(np.array([0, 7, 9], np.int32), space.vectors[[0, 7, 9]] * np.float32(1.01))
        assert space.remainder() is not None
    index, confidence = histories(300, users, width, seed)
    start = np.random.default_rng(seed).standard_normal((users, 12)).astype(np.float32) if warm else None
    out = solve_batch(space, index, confidence, rhs, start, TOLERANCE)
    exact = references(space, index, confidence, rhs) if users else np.zeros((0, 12))
    assert out.vectors.dtype == np.float32
    assert errors(out.vectors, exact).max(initial=0.0) <= 1e-5
    assert out.empty.tolist() == (~(index >= 0).any(axis=1)).tolist()
    assert not out.vectors[out.empty].any()
    assert (out.residual <= TOLERANCE).all()
    # A start at random may be a hundred times as long as the solution (`MAX_SHRINK`).
    assert warm or out.fallbacks == 0


@pytest.mark.parametrize(("alpha", "ridge"), [(5.0, 10.0), (40.0, 0.05)])
@pytest.mark.parametrize("users", [1, 700])
def test_batch_keeps_its_promise_at_size(alpha: float, ridge: float, users: int) -> None:
    """At k = 64, histories up to 100, several chunks: within 1e-5, warm and cold, hardly one by Cholesky."""
    space = space_of(3000, 64, ridge=ridge)
    index, _ = histories(3000, users, 100)
    confidence = 1 + alpha * np.log1p(5 * np.random.default_rng(1).random(index.shape))
    exact = references(space, index, confidence, "c")
    cold = solve_batch(space, index, confidence, "c", None, TOLERANCE)
    warm = solve_batch(space, index, confidence, "c", exact * np.float32(1.05), TOLERANCE)
    for out in (cold, warm):
        assert errors(out.vectors, exact).max() <= 1e-5
        assert out.fallbacks <= users // 50
    assert warm.iterations <= cold.iterations


def test_batch_equals_a_half_step_of_batch_als() -> None:
    """What the stream solves is what batch ALS solves for all users on the same history."""
    space, random = space_of(60, 8), np.random.default_rng(2)
    seen = random.random((25, 60)) < 0.2
    confidence = 1 + 5 * random.random((25, 60))
    index = np.where(seen, np.arange(60), -1).astype(np.int32)
    for rhs in ("c", "c-1"):
        exact = twins.half_step(space.vectors, confidence, seen, space.ridge, rhs)
        out = solve_batch(space, index, confidence, rhs, None, 1e-6)
        assert errors(out.vectors, exact).max() <= 1e-5


def test_one_item_twice_is_one_item_of_both_weights() -> None:
    """Duplicates in a history add up, in the batch as in the reference."""
    space = space_of(50, 8)
    twice = solve_batch(space, np.array([[4, 4]], np.int32), np.array([[3.0, 2.0]]), "c-1", None, 1e-6)
    once = solve_batch(space, np.array([[4]], np.int32), np.array([[4.0]]), "c-1", None, 1e-6)
    assert np.allclose(twice.vectors, once.vectors, rtol=1e-5)


@pytest.mark.parametrize("weight", [1e3, 1e6, 1e9])
def test_huge_weights_stay_exact(weight: float) -> None:
    """A confidence that float32 could not carry goes to Cholesky and is counted; the neighbours do not notice."""
    space = space_of(300, 12)
    index, confidence = histories(300, 8, 20, seed=4)
    plain = solve_batch(space, index, confidence, "c", None, TOLERANCE)
    loud = confidence.copy()
    loud[3] *= weight
    out = solve_batch(space, index, loud, "c", None, TOLERANCE)
    assert np.isfinite(out.vectors).all()
    assert errors(out.vectors, references(space, index, loud, "c")).max() <= 1e-5
    assert out.fallbacks <= 1
    others = np.arange(8) != 3
    assert errors(out.vectors[others], plain.vectors[others]).max() <= 1e-5


def test_users_that_do_not_converge_are_solved_by_cholesky(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too few steps allowed the answer is still right, and every such user is counted."""
    monkeypatch.setattr(solve, "MAX_STEPS", 1)
    space = space_of(300, 12)
    index, confidence = histories(300, 9, 20)
    out = solve_batch(space, index, confidence, "c", None, TOLERANCE)
    assert np.array_equal(out.vectors, references(space, index, confidence, "c"))
    assert out.fallbacks == (~out.empty).sum()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_numbers_stay_where_they_are(bad: float) -> None:
    """A bad confidence counts as an unknown item, a bad start as none; no vector is ever NaN."""
    space = space_of(300, 12)
    index, confidence = histories(300, 6, 20, seed=1)
    index[:, :3] = 5
    hurt, start = confidence.copy(), np.ones((6, 12), np.float32)
    hurt[2, 1], hurt[4, :], start[1, 3], start[3] = bad, bad, bad, 3e38
    out = solve_batch(space, index, hurt, "c", start, TOLERANCE)
    without = np.where(np.isfinite(hurt), index, -1)
    assert np.isfinite(out.vectors).all()
    assert out.empty.tolist() == [False] * 4 + [True, False]
    assert errors(out.vectors, references(space, without, confidence, "c")).max() <= 1e-5
    assert errors(out.vectors, references(space, index, hurt, "c")).max() <= 1e-5
    assert out.fallbacks == 0


def test_an_empty_space_knows_nobody() -> None:
    """Before the first item every user is empty."""
    space = ItemSpace(4, 1.0)
    out = solve_batch(space, np.full((3, 2), -1, np.int32), np.ones((3, 2)), "c", None, TOLERANCE)
    assert out.empty.all()
    assert out.vectors.tolist() == [[0.0] * 4] * 3
    assert solve_cholesky(space, np.zeros(0, np.int32), np.zeros(0), "c").tolist() == [0.0] * 4
