"""The batch fit: half-steps against a dense solve, a falling loss, the same bytes for a seed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from bootstrap import als
from bootstrap.als import Iteration, Training, fit_items, half_step

F64 = npt.NDArray[np.float64]


@pytest.fixture(params=["numpy", "compiled"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with the compiled half-step and with its twin."""
    if request.param == "numpy":
        monkeypatch.setattr(als, "_kernel", lambda: None)
    else:
        assert als._kernel() is not None


def training(rhs: Literal["c", "c-1"] = "c", **changes: Any) -> Training:
    values: dict[str, Any] = {"dimension": 5, "iterations": 8, "seed": 1, "ridge": 2.0, "rhs": rhs, **changes}
    return Training(**values)


def confidences(seed: int, rows: int, columns: int, density: float = 0.3) -> csr_array:
    """Random confidences of 1 to 11, some rows and columns without any."""
    draw = np.random.default_rng(seed)
    dense = np.where(draw.random((rows, columns)) < density, 1 + 10 * draw.random((rows, columns)), 0)
    return csr_array(dense)


def dense_rows(confidence: csr_array, fixed: F64, ridge: float, rhs: str) -> F64:
    """The slow twin: one dense solve a row."""
    gram = fixed.T @ fixed + ridge * np.eye(fixed.shape[1])
    rows = []
    for row in confidence.toarray():
        seen = row > 0
        c, v = row[seen], fixed[seen]
        q = c if rhs == "c" else c - 1
        rows.append(np.linalg.solve(gram + (v.T * (c - 1)) @ v, v.T @ q))
    return np.array(rows)


def dense_loss(confidence: csr_array, x: F64, v: F64, ridge: float, rhs: str) -> float:
    """The loss of the module's docstring, over every pair."""
    c, scores = confidence.toarray(), x @ v.T
    seen = c > 0
    q = (c if rhs == "c" else c - 1)[seen]
    observed = (c[seen] - 1) * scores[seen] ** 2 - 2 * q * scores[seen] + q * q / c[seen]
    return float((scores**2).sum() + observed.sum() + ridge * ((x**2).sum() + (v**2).sum()))


@pytest.mark.parametrize("rhs", ["c", "c-1"])
def test_half_step_solves_every_row(rhs: Literal["c", "c-1"]) -> None:
    """With as many steps as dimensions, conjugate gradients reach the dense solution, empty rows included."""
    matrix = confidences(3, 40, 30)
    v = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    x = np.zeros((40, 5), np.float32)
    loss = half_step(matrix, v, x, training(rhs, steps=12))
    expected = dense_rows(matrix, v.astype(np.float64), 2.0, rhs)
    np.testing.assert_allclose(x, expected, atol=2e-5)
    assert loss == pytest.approx(dense_loss(matrix, expected, v.astype(np.float64), 2.0, rhs), rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 25),
    columns=st.integers(1, 25),
    density=st.floats(0, 1),
    rhs=st.sampled_from(["c", "c-1"]),
    steps=st.integers(1, 4),
)
def test_loss_never_rises(
    seed: int, rows: int, columns: int, density: float, rhs: Literal["c", "c-1"], steps: int
) -> None:
    """However few steps a half-step takes, a round lowers the loss or leaves it, to rounding."""
    matrix = confidences(seed, rows, columns, density)
    losses: list[Iteration] = []
    fit_items(matrix, csr_array(matrix.T.tocsr()), training(rhs, steps=steps), losses.append)
    values = [iteration.loss for iteration in losses]
    assert all(after <= before + 1e-4 * abs(before) + 1e-4 for before, after in pairwise(values))


def test_items_have_a_ridge_of_their_own() -> None:
    """Each side's rows are solved with their own, and the loss counts both."""
    matrix = confidences(3, 40, 30)
    v = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    x = np.zeros((40, 5), np.float32)
    plan = training(steps=12, ridge_items=7.0)
    half_step(matrix, v, x, plan)
    np.testing.assert_allclose(x, dense_rows(matrix, v.astype(np.float64), 2.0, "c"), atol=2e-5)
    other = csr_array(matrix.T.tocsr())
    loss = half_step(other, x, v, plan, items=True)
    np.testing.assert_allclose(v, dense_rows(other, x.astype(np.float64), 7.0, "c"), atol=2e-5)
    wide, tall = x.astype(float), v.astype(float)
    expected = dense_loss(matrix, wide, tall, 0.0, "c") + 2 * (wide**2).sum() + 7 * (tall**2).sum()
    assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("solver", ["cg", "cholesky"])
@pytest.mark.parametrize(("nu", "alpha0"), [(1.0, 0.0), (0.5, 0.25)])
def test_ridges_grow_with_what_a_row_has(solver: Literal["cg", "cholesky"], nu: float, alpha0: float) -> None:
    """Each row of both sides is solved with ridge (n + alpha0 m)^nu, and the loss counts each row's own."""
    matrix = confidences(3, 40, 30)
    v = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    x = np.zeros((40, 5), np.float32)
    plan = training(steps=20, solver=solver, ridge_items=7.0, ridge_nu=nu, ridge_alpha0=alpha0)

    def own(pairs: csr_array, fixed: Any, ridge: float) -> tuple[F64, F64]:
        counts = np.diff(pairs.indptr)
        ridges = ridge * (counts + alpha0 * len(fixed)) ** nu
        rows = [
            dense_rows(csr_array(pairs.toarray()[[row]]), fixed.astype(np.float64), ridges[row], "c")[0]
            if counts[row]
            else np.zeros(fixed.shape[1])
            for row in range(len(counts))
        ]
        return np.array(rows), ridges

    half_step(matrix, v, x, plan)
    expected, of_users = own(matrix, v, 2.0)
    np.testing.assert_allclose(x, expected, atol=2e-5)
    other = csr_array(matrix.T.tocsr())
    loss = half_step(other, x, v, plan, items=True)
    expected, of_items = own(other, x, 7.0)
    np.testing.assert_allclose(v, expected, atol=2e-5)
    wide, tall = x.astype(float), v.astype(float)
    penalty = of_users @ (wide**2).sum(axis=1) + of_items @ (tall**2).sum(axis=1)
    assert loss == pytest.approx(dense_loss(matrix, wide, tall, 0.0, "c") + penalty, rel=1e-4)


@pytest.mark.parametrize("solver", ["cg", "cholesky"])
def test_unobserved_pairs_weigh_what_their_item_weighs(solver: Literal["cg", "cholesky"]) -> None:
    """Both half-steps against dense solves with diag(w), and the loss over every pair."""
    matrix, draw = confidences(3, 40, 30), np.random.default_rng(0)
    w = 0.2 + draw.random(30)
    v = draw.standard_normal((30, 5)).astype(np.float32)
    x = np.zeros((40, 5), np.float32)
    plan = training(steps=20, solver=solver)
    half_step(matrix, v, x, plan, weights=w)
    c, wide = matrix.toarray(), v.astype(np.float64)
    more = np.where(c > 0, c - 1, 0)
    users = [
        np.linalg.solve((wide.T * (w + more[user])) @ wide + 2 * np.eye(5), wide.T @ c[user]) for user in range(len(c))
    ]
    np.testing.assert_allclose(x, users, atol=2e-5)
    loss = half_step(csr_array(matrix.T.tocsr()), x, v, plan, items=True, weights=w)
    tall = x.astype(np.float64)
    items = [
        np.linalg.solve((tall.T * (w[item] + more[:, item])) @ tall + 2 * np.eye(5), tall.T @ c[:, item])
        for item in range(30)
    ]
    np.testing.assert_allclose(v, items, atol=2e-5)
    scores = x.astype(float) @ v.astype(float).T
    expected = (w * scores**2).sum() + (more * scores**2 - 2 * c * scores + c).sum()
    expected += 2 * ((x.astype(float) ** 2).sum() + (v.astype(float) ** 2).sum())
    assert loss == pytest.approx(expected, rel=1e-4)


def test_the_reported_loss_is_the_loss() -> None:
    """What the progress bar shows is the sum over every pair, not a sample of it."""
    matrix = confidences(5, 30, 20)
    v = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)
    x = np.zeros((30, 5), np.float32)
    half_step(matrix, v, x, training())
    loss = half_step(csr_array(matrix.T.tocsr()), x, v, training())
    assert loss == pytest.approx(dense_loss(matrix, x.astype(float), v.astype(float), 2.0, "c"), rel=1e-4)


def test_the_cut_into_passes_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are solved alike whether they share a pass or not, the row larger than a pass included."""
    matrix = confidences(7, 50, 40)
    v = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)
    whole, cut = np.zeros((50, 5), np.float32), np.zeros((50, 5), np.float32)
    half_step(matrix, v, whole, training(steps=6))
    monkeypatch.setattr(als, "_PAIRS", 7)
    half_step(matrix, v, cut, training(steps=6))
    np.testing.assert_allclose(cut, whole, atol=1e-5)


def test_both_ways_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled steps are the twin's, to rounding, also on the way to the solution."""
    matrix = confidences(13, 300, 200, 0.2)
    v = np.random.default_rng(0).standard_normal((200, 5)).astype(np.float32)
    found = []
    for kernel in (als._kernel(), None):
        monkeypatch.setattr(als, "_kernel", lambda kernel=kernel: kernel)
        x = np.zeros((300, 5), np.float32)
        loss = half_step(matrix, v, x, training(steps=2))
        found.append((x, loss))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)


def test_cholesky_is_what_the_steps_lead_to() -> None:
    """And its loss is the smallest."""
    matrix = confidences(3, 40, 30)
    v = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    exact, near = np.zeros((40, 5), np.float32), np.zeros((40, 5), np.float32)
    least = half_step(matrix, v, exact, training(solver="cholesky"))
    loss = half_step(matrix, v, near, training(steps=1))
    np.testing.assert_allclose(exact, dense_rows(matrix, v.astype(np.float64), 2.0, "c"), atol=2e-5)
    assert least < loss
    assert half_step(matrix, v, near, training(steps=12)) == pytest.approx(least, rel=1e-5)


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added up is added up in one order."""
    monkeypatch.setattr(als, "_PAIRS", 50)
    monkeypatch.setattr(als, "_TOGETHER", 2)
    matrix = confidences(17, 90, 80)
    other = csr_array(matrix.T.tocsr())

    def run(threads: int) -> tuple[bytes, list[float]]:
        losses: list[float] = []
        v = fit_items(matrix, other, training(threads=threads), lambda iteration: losses.append(iteration.loss))
        return v.tobytes(), losses

    assert run(1) == run(3)


def test_a_warm_start_goes_on_and_patience_ends_it() -> None:
    """From its own result the first round is where the last one ended; what no longer falls is left."""
    matrix = confidences(19, 120, 60)
    other = csr_array(matrix.T.tocsr())
    cold: list[float] = []
    v = fit_items(matrix, other, training(iterations=30, steps=6), lambda iteration: cold.append(iteration.loss))
    start = v.copy()
    start[7] = np.nan
    warm: list[float] = []
    plan = training(iterations=30, steps=6, patience=1e-4)
    fit_items(matrix, other, plan, lambda iteration: warm.append(iteration.loss), start)
    assert warm[0] < cold[1]
    assert 2 <= len(warm) < 30
    with pytest.raises(ValueError, match="does not fit"):
        fit_items(matrix, other, plan, lambda _: None, v[:-1])


def test_a_seed_names_one_result() -> None:
    """The same matrix and seed give the same bytes; another seed gives others."""
    matrix = confidences(9, 60, 50)
    other_side = csr_array(matrix.T.tocsr())

    def run(seed: int) -> bytes:
        return fit_items(matrix, other_side, training(seed=seed), lambda _: None).tobytes()

    assert run(4) == run(4)
    assert run(4) != run(5)


def test_nothing_to_learn_from_gives_zeros_not_nan() -> None:
    """Rows without a pair, and a matrix without any, end at zero."""
    empty = csr_array((3, 4), dtype=np.float64)
    v = fit_items(empty, csr_array(empty.T.tocsr()), training(), lambda _: None)
    assert np.isfinite(v).all()
    assert np.abs(v).max() < 1e-3


def test_planted_low_rank_data_come_back() -> None:
    """From a third of the pairs of a rank-4 world, the fit ranks the held-back pairs far above popularity."""
    draw = np.random.default_rng(11)
    taste, kinds = draw.standard_normal((200, 4)), draw.standard_normal((120, 4))
    likes = (taste @ kinds.T) > 1.5
    kept = likes & (draw.random(likes.shape) < 0.5)
    held = likes & ~kept
    matrix = csr_array(np.where(kept, 6.0, 0.0))
    v = fit_items(matrix, csr_array(matrix.T.tocsr()), training(iterations=12), lambda _: None)
    x = np.zeros((200, 5), np.float32)
    half_step(matrix, v, x, training(steps=12))

    def recall(scores: F64) -> float:
        top = np.argsort(-np.where(kept, -np.inf, scores), axis=1)[:, :10]
        return float(np.take_along_axis(held, top, axis=1).sum() / np.minimum(held.sum(axis=1), 10).sum())

    popularity = np.broadcast_to(kept.sum(axis=0).astype(float), likes.shape)
    assert recall((x @ v.T).astype(float)) > 2 * recall(popularity)


@pytest.mark.parametrize("changes", [{"dimension": 0}, {"iterations": 0}, {"ridge": 0.0}, {"patience": 1.0}])
def test_impossible_training_is_refused(changes: dict[str, Any]) -> None:
    """Hyper-parameters are checked where they are made."""
    with pytest.raises(ValueError, match="must be"):
        training(**changes)


def test_sides_that_do_not_fit_are_refused() -> None:
    """Shapes are asserted at the door."""
    with pytest.raises(ValueError, match="do not fit"):
        fit_items(confidences(1, 3, 4), confidences(1, 3, 4), training(), lambda _: None)
