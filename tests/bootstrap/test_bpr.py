"""BPR: the loop and its twin agree, seeds hold, negatives are never what the user has had, and it ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from bootstrap import bpr
from bootstrap.als import Iteration
from bootstrap.bpr import Ranking, fit_bpr
from bootstrap.columns import columns_of
from bootstrap.fit import score
from bootstrap.job import recipe
from ops.data import synthetic
from streamer.errors import CheckFailed
from tests.bootstrap.small import KEY, NOW_MS, SHAPE, Reading, quiet, settings_of


def pairs_of(seed: int, users: int = 40, items: int = 30) -> csr_array:
    """Users of two tastes, each of half of the items."""
    draw = np.random.default_rng(seed)
    same = (np.arange(users)[:, None] % 2) == (np.arange(items) % 2)
    return csr_array(np.where(draw.random(same.shape) < np.where(same, 0.6, 0.03), 1.0, 0.0))


def ignore(_: Iteration) -> None:
    pass


@pytest.mark.parametrize("popularity", [0.0, 0.75])
def test_the_compiled_loop_is_its_twin(popularity: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and vectors, to rounding."""
    told: list[Iteration] = []
    ranking = Ranking(0.1, negative_popularity=popularity)
    compiled = fit_bpr(pairs_of(1), 4, 5, ranking, 7, told.append)
    monkeypatch.setattr(bpr, "_kernel", lambda: None)
    plain: list[Iteration] = []
    np.testing.assert_allclose(compiled, fit_bpr(pairs_of(1), 4, 5, ranking, 7, plain.append), atol=1e-6)
    np.testing.assert_allclose([one.loss for one in told], [one.loss for one in plain], rtol=1e-9)


def test_the_same_bytes_for_a_seed() -> None:
    """And others for another."""
    first = fit_bpr(pairs_of(1), 4, 5, Ranking(), 7, ignore)
    assert first.tobytes() == fit_bpr(pairs_of(1), 4, 5, Ranking(), 7, ignore).tobytes()
    assert first.tobytes() != fit_bpr(pairs_of(1), 4, 5, Ranking(), 8, ignore).tobytes()


@pytest.mark.parametrize("popularity", [0.0, 1.0])
def test_a_negative_is_never_what_its_user_has_had(popularity: float) -> None:
    """Drawn anew, or left out; and popular ones come the more often the higher the power."""
    had = csr_array((np.random.default_rng(2).random((40, 30)) < np.linspace(0.05, 0.9, 30)).astype(float))
    dense, draw = had.toarray() > 0, np.random.default_rng(0)
    user, item, other = bpr._Pairs(had, popularity).draw(draw)
    assert len(user) > 0.9 * had.nnz
    assert dense[user, item].all()
    assert not dense[user, other].any()


def test_popularity_moves_what_is_drawn() -> None:
    """The rare half is drawn less often where popularity counts."""
    had = csr_array((np.random.default_rng(2).random((200, 30)) < np.linspace(0.02, 0.6, 30)).astype(float))
    rare = []
    for power in (0.0, 1.0):
        _, _, other = bpr._Pairs(had, power).draw(np.random.default_rng(0))
        rare.append(np.count_nonzero(other < 10) / len(other))
    assert rare[1] < 0.5 * rare[0]


def test_the_rate_shrinks_with_every_epoch() -> None:
    """With next to nothing left of it after the first epoch, the others move nothing."""
    fitted = [fit_bpr(pairs_of(1), 4, epochs, Ranking(0.1, decay=1e-12), 7, ignore) for epochs in (1, 4)]
    np.testing.assert_allclose(fitted[0], fitted[1], atol=1e-7)


def test_a_warm_start_begins_where_it_is_told() -> None:
    """A row that is not finite begins at random; a start of another shape is refused."""
    start = np.ones((30, 4), np.float32)
    start[3] = np.nan
    fitted = fit_bpr(pairs_of(1), 4, 1, Ranking(1e-9), 7, ignore, start=start)
    np.testing.assert_allclose(fitted[[0, 1, 2, 4]], 1.0, atol=1e-6)
    assert np.isfinite(fitted[3]).all()
    assert np.abs(fitted[3] - 1).max() > 0.1
    with pytest.raises(ValueError, match="does not fit"):
        fit_bpr(pairs_of(1), 4, 1, Ranking(), 7, ignore, start=start[1:])


def test_a_fit_that_diverges_names_its_own_settings(reading: Reading, tmp_path: Path) -> None:
    """Not those of ALS."""
    settings = settings_of(tmp_path, FACTORS_BOOTSTRAP__OBJECTIVE="bpr", FACTORS_BOOTSTRAP__RATE="1e30")
    columns, _ = columns_of(reading(*synthetic.load(3, SHAPE).rebase(NOW_MS).events), settings.policy, KEY)
    with (
        np.errstate(all="ignore"),
        pytest.raises(CheckFailed, match=r"lower bootstrap\.rate, or raise bootstrap\.reg_users and bootstrap\.reg_"),
    ):
        score(columns, recipe(settings), quiet)


def test_a_user_who_has_had_everything_ends_nothing() -> None:
    """There is no negative for such a user: the pairs are left out."""
    everything = csr_array(np.ones((2, 3)))
    assert all(len(drawn) == 0 for drawn in bpr._Pairs(everything, 0.0).draw(np.random.default_rng(0)))
    assert np.isfinite(fit_bpr(everything, 2, 2, Ranking(), 0, ignore)).all()


def test_it_tells_tastes_apart() -> None:
    """Items of one taste end up nearer to each other than to those of the other."""
    told: list[Iteration] = []
    y = fit_bpr(pairs_of(3), 4, 60, Ranking(0.1), 0, told.append)
    assert told[-1].loss < 0.6 * told[0].loss
    near = y / np.linalg.norm(y, axis=1, keepdims=True) @ (y / np.linalg.norm(y, axis=1, keepdims=True)).T
    same = (np.arange(30)[:, None] % 2) == (np.arange(30) % 2)
    assert near[same].mean() > near[~same].mean() + 0.8


def test_the_job_fits_by_it(reading: Reading, tmp_path: Path) -> None:
    """On made-up data users folded in against its items are foretold better than by popularity."""
    settings = settings_of(
        tmp_path,
        FACTORS_BOOTSTRAP__OBJECTIVE="bpr",
        FACTORS_BOOTSTRAP__ITERATIONS="60",
        FACTORS_BOOTSTRAP__RATE="0.1",
        FACTORS_BOOTSTRAP__REG_USERS="0.01",
        FACTORS_BOOTSTRAP__REG_ITEMS="0.01",
        FACTORS_POLICY__RIDGE="1",
    )
    columns, _ = columns_of(reading(*synthetic.load(3, SHAPE).rebase(NOW_MS).events), settings.policy, KEY)
    plan = recipe(settings)
    assert plan.algorithm == "implicit-bpr"
    metrics = score(columns, plan, quiet)
    assert metrics["recall"] > 1.2 * metrics["popularity_recall"]
