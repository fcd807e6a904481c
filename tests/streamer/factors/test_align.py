"""Turning one space towards another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.factors.align import procrustes, rotate


@given(seed=st.integers(0, 2**32 - 1), items=st.integers(8, 60), dimension=st.integers(1, 8))
def test_a_turned_space_is_turned_back(seed: int, items: int, dimension: int) -> None:
    """A rotated copy comes back, and no score changes on the way."""
    draw = np.random.default_rng(seed)
    old = draw.normal(size=(items, dimension)).astype(np.float32)
    turn, _ = np.linalg.qr(draw.normal(size=(dimension, dimension)))
    new, user = rotate(old, turn), draw.normal(size=(1, dimension)).astype(np.float32)
    rotation, residual = procrustes(new, old)
    assert residual < 1e-5
    np.testing.assert_allclose(rotate(new, rotation), old, atol=1e-5)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(dimension), atol=1e-12)
    np.testing.assert_allclose(rotate(new, rotation) @ rotate(user, rotation).T, new @ user.T, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_turned_remains() -> None:
    """Noise is the residual, relative to the old vectors; without turning it would be far more."""
    draw = np.random.default_rng(0)
    old = draw.normal(size=(500, 6)).astype(np.float32)
    turn, _ = np.linalg.qr(draw.normal(size=(6, 6)))
    new = rotate((old + 0.1 * draw.normal(size=old.shape)).astype(np.float32), turn)
    _, residual = procrustes(new, old)
    assert 0.05 < residual < 0.15
    assert float(np.linalg.norm(new - old) / np.linalg.norm(old)) > 1.0


@pytest.mark.parametrize(
    ("new", "old", "why"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), "as many of the same dimension"),
        (np.ones((0, 3)), np.ones((0, 3)), "at least one"),
        (np.full((1, 3), np.nan), np.ones((1, 3)), "not finite"),
    ],
)
def test_bad_vectors_are_refused(new: np.ndarray, old: np.ndarray, why: str) -> None:
    """With what is wrong about them."""
    with pytest.raises(ValueError, match=why):
        procrustes(new.astype(np.float32), old.astype(np.float32))
