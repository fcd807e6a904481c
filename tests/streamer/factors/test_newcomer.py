"""A new item's vector is the batch job's item half-step over the users who chose it."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Policy
from streamer.factors.newcomer import UserSide, fold_in, user_side
from streamer.factors.ridge import Ridge
from tests.streamer.factors import twins
from tests.streamer.steps.world import manifest

K = 5


@given(st.integers(0, 2**32 - 1), st.integers(1, 32), st.sampled_from(["c", "c-1"]))
def test_it_equals_the_half_step_of_hu_koren_and_volinsky(seed: int, chosen: int, rhs: str) -> None:
    """Over a dense matrix of all users, those who chose the item and those who did not."""
    draw = np.random.default_rng(seed)
    users = draw.standard_normal((40, K)).astype(np.float32)
    seen = np.zeros((1, 40), bool)
    seen[0, :chosen] = True
    confidence = 1 + 5 * draw.random((1, 40))
    exact = twins.half_step(users, confidence, seen, 3.0, rhs)[0]
    side = UserSide(users.astype(float).T @ users.astype(float), Ridge(3.0), rhs)
    folded = fold_in(side, users[:chosen], confidence[0, :chosen])
    assert np.linalg.norm(folded - exact) <= 1e-5 * np.linalg.norm(exact)


def test_the_manifest_says_it_all() -> None:
    """Triangle, the items' own ridge where training had one, and the right-hand side."""
    triangle = list(range(1, 4))
    made = msgspec.structs.replace(manifest(Policy(ridge=7.0, rhs="c-1"), 2), user_gramian=[float(n) for n in triangle])
    side = user_side(made)
    assert side is not None
    assert side.gramian.tolist() == [[1, 2], [2, 3]]
    assert (side.ridge, side.rhs) == (Ridge(7.0), "c-1")
    other = user_side(msgspec.structs.replace(made, hyperparameters={"ridge_items": 2.0}))
    assert other is not None
    assert other.ridge == Ridge(2.0)
    assert user_side(manifest(Policy(), 2)) is None
    grows = msgspec.structs.replace(
        made,
        policy=Policy(ridge=7.0, ridge_nu=0.5, ridge_alpha0=0.1, unobserved_power=0.5),
        counts={"items": 3, "users": 40},
        hyperparameters={"unobserved_mean": 2.0},
    )
    side = user_side(grows)
    assert side is not None
    assert side.ridge == Ridge(7.0, 0.5, 4.0)
    assert side.weight(9) == 1.5
    assert user_side(msgspec.structs.replace(grows, hyperparameters={})) is None
    assert user_side(msgspec.structs.replace(grows, counts={"items": 3})) is None
    with pytest.raises(ValueError, match="user_gramian: has 1 numbers where a triangle has 3"):
        msgspec.structs.replace(made, user_gramian=[1.0])


def test_weights_beyond_the_ridge_still_give_a_vector() -> None:
    """Cholesky fails there; least squares does not."""
    side = UserSide(np.zeros((K, K)), Ridge(1e-300), "c")
    users = np.ones((2, K), np.float32)
    assert np.isfinite(fold_in(side, users, np.array([1e9, 1e9]))).all()
