"""Item SGD: rounds of distinct items give the bytes of one signal after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Policy
from streamer.factors.sgd import REFUSED, apply_signals
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
