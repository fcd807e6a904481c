"""Item SGD: rounds of distinct items give the bytes of one signal after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Policy
from streamer.factors.sgd import REFUSED, Pairs, apply_signals
from tests.streamer.factors import twins

POLICY = Policy(sgd_rate=0.05, sgd_reg=0.1, sgd_clip=0.5)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.sampled_from([1, 3, 8, 64, 130]),
    st.integers(0, 40),
    st.sampled_from([1.0, 1e3, 1e9]),
)
def test_rounds_equal_the_sequence_to_the_bit(seed: int, items: int, k: int, signals: int, loudness: float) -> None:
    """Vectors and norms are those of the sequential loop, huge confidences and bad numbers included."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((items, k)).astype(np.float32)
    users = random.standard_normal((signals, k)).astype(np.float32)
    users[random.random(signals) < 0.1] = np.nan
    users[random.random(signals) < 0.1] = 3e38
    of, confidence = random.integers(0, items, signals), 1 + loudness * random.random(signals)
    before = vectors.copy()
    moved, norms = apply_signals(vectors, of, users, confidence, POLICY)
    expected, steps = twins.sgd(
        vectors,
        list(zip(of.tolist(), users, confidence.tolist(), strict=True)),
        rate=POLICY.sgd_rate,
        reg=POLICY.sgd_reg,
        clip=POLICY.sgd_clip,
    )
    assert np.array_equal(moved, expected)
    assert norms.tolist() == steps
    assert np.array_equal(vectors, before)
    assert np.isfinite(moved).all()


def test_cutting_the_signals_does_not_show() -> None:
    """Forty signals in one call or in batches of three give the same bytes."""
    random = np.random.default_rng(1)
    vectors = random.standard_normal((5, 16)).astype(np.float32)
    users, of = random.standard_normal((40, 16)).astype(np.float32), random.integers(0, 5, 40)
    confidence = 1 + random.random(40)
    whole, _ = apply_signals(vectors, of, users, confidence, POLICY)
    cut = vectors
    for start in range(0, 40, 3):
        part = slice(start, start + 3)
        cut, _ = apply_signals(cut, of[part], users[part], confidence[part], POLICY)
    assert np.array_equal(whole, cut)


def test_a_step_moves_the_score_towards_one_and_is_clipped() -> None:
    """A user's signal pulls the item to the user; a loud one moves it by the clip and no further."""
    vectors, user = np.array([[0.1, 0.0]], np.float32), np.array([[1.0, 0.0]], np.float32)
    first = np.zeros(1, np.intp)
    moved, norms = apply_signals(vectors, first, user, np.ones(1), POLICY)
    assert 0.1 < moved[0, 0] < 1
    assert norms[0] == pytest.approx(float(moved[0, 0]) - 0.1, rel=1e-5)
    moved, norms = apply_signals(vectors, first, user, np.array([1e9]), POLICY)
    assert norms.tolist() == [POLICY.sgd_clip]
    assert moved[0, 0] == pytest.approx(0.6)


def test_a_bad_number_moves_nothing_and_shows() -> None:
    """A signal that is not finite is refused; the item's other signals count."""
    vectors = np.ones((1, 2), np.float32)
    users = np.array([[np.inf, 0], [0.1, 0.1]], np.float32)
    moved, norms = apply_signals(vectors, np.zeros(2, np.intp), users, np.ones(2), POLICY)
    alone, _ = apply_signals(vectors, np.zeros(1, np.intp), users[1:], np.ones(1), POLICY)
    assert norms[0] == REFUSED
    assert np.array_equal(moved, alone)
    same, _ = apply_signals(vectors, np.zeros(1, np.intp), users[1:], np.array([np.nan]), POLICY)
    assert np.array_equal(same, vectors)


def test_no_signals_and_no_items() -> None:
    """Nothing to do gives the vectors back, copied."""
    vectors = np.ones((2, 3), np.float32)
    none = np.zeros((0, 3), np.float32)
    moved, norms = apply_signals(vectors, np.zeros(0, np.intp), none, np.zeros(0), POLICY)
    assert np.array_equal(moved, vectors)
    assert moved is not vectors
    assert norms.shape == (0,)
    moved, _ = apply_signals(none, np.zeros(0, np.intp), none, np.zeros(0), POLICY)
    assert moved.shape == (0, 3)


def test_a_pair_draws_the_chosen_item_near_and_pushes_the_drawn_one_away() -> None:
    """Each by how unsure the pair's order is; a pair in good order hardly moves."""
    vectors, user = np.zeros((2, 2), np.float32), np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    policy = Policy(sgd_rate=0.5, sgd_reg=0.0, sgd_objective="bpr")
    both, ones = np.arange(2), np.ones(2)
    moved, _ = apply_signals(vectors, both, user, ones, policy, pairs=Pairs(np.zeros(2), np.array([1.0, -1.0])))
    assert moved[:, 0] == pytest.approx([0.25, -0.25])
    sure = Pairs(np.array([-9.0, 9.0]), np.array([1.0, -1.0]))
    moved, norms = apply_signals(vectors, both, user, ones, policy, pairs=sure)
    assert np.abs(moved).max() < 1e-3
    assert norms.max() < 1e-3
    far = Pairs(np.array([1e6, -np.inf]), np.array([1.0, -1.0]))
    moved, _ = apply_signals(vectors, both, user, ones, policy, pairs=far)
    assert moved[:, 0] == pytest.approx([0.5, -0.5])


def test_adagrad_steps_shrink_and_one_loud_signal_does_not_freeze_an_item() -> None:
    """The sum grows by what was clipped, so it is bounded by the clip."""
    policy = Policy(sgd_rate=0.1, sgd_reg=0.0, sgd_clip=0.2, sgd_step="adagrad")
    vectors, user, spent = np.zeros((1, 2), np.float32), np.array([[0.5, 0.0]], np.float32), np.zeros(1, np.float32)
    first = np.zeros(1, np.intp)
    steps = []
    for _ in range(5):
        vectors, norms = apply_signals(vectors, first, user, np.ones(1), policy, optimiser=spent)
        steps.append(norms[0])
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] < 0.8 * steps[0]
    before = float(spent[0])
    apply_signals(vectors, first, user, np.array([1e9]), policy, optimiser=spent)
    assert spent[0] - before == pytest.approx((0.2 / 0.1) ** 2, rel=1e-3)
    held = spent.copy()
    apply_signals(vectors, first, np.full((1, 2), np.nan, np.float32), np.ones(1), policy, optimiser=spent)
    assert np.array_equal(held, spent)


def test_the_pull_keeps_an_item_near_its_batch_vector() -> None:
    """Without it, signals of one taste carry the item away."""
    origin, user = np.array([[0.0, 1.0]], np.float32), np.array([[1.0, 0.0]], np.float32)

    def after(pull: float) -> float:
        policy = Policy(sgd_rate=0.1, sgd_reg=0.0, sgd_pull=pull)
        users, of = np.repeat(user, 200, axis=0), np.zeros(200, np.intp)
        moved, _ = apply_signals(origin, of, users, np.ones(200), policy, origin=origin)
        return float(np.linalg.norm(moved - origin))

    assert after(0.0) == pytest.approx(1.0, abs=1e-3)
    assert after(3.0) == pytest.approx(0.25, abs=1e-3)


def test_no_vector_is_longer_than_the_cap_between_two_signals() -> None:
    """In the step, not after the batch: the next signal must see the same vector however signals were cut."""
    policy = Policy(sgd_rate=1.0, sgd_reg=0.0, sgd_clip=10.0, norm_cap=0.5)
    users, of = np.array([[3.0, 0.0], [0.0, 3.0]], np.float32), np.zeros(2, np.intp)
    vectors = np.zeros((1, 2), np.float32)
    whole, _ = apply_signals(vectors, of, users, np.ones(2), policy)
    first, _ = apply_signals(vectors, of[:1], users[:1], np.ones(1), policy)
    assert np.linalg.norm(first) == pytest.approx(0.5)
    second, _ = apply_signals(first, of[1:], users[1:], np.ones(1), policy)
    assert np.array_equal(whole, second)
