"""Patience, the same of all four trainings: 0 never ends one, also where the loss rises; and no chance does."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, pairwise

import numpy as np
import pytest
from scipy.sparse import csr_array

from bootstrap import als, explicit
from bootstrap.als import Iteration, Training, fit_items
from bootstrap.bpr import Ranking, fit_bpr
from bootstrap.descent import Descent, fit_sgd
from bootstrap.explicit import fit_als
from tests.bootstrap.test_bpr import pairs_of
from tests.bootstrap.test_explicit import RIDGES, ratings_of

ROUNDS = 12
Fit = Callable[[float, Callable[[Iteration], None]], object]


def by_als(patience: float, tell: Callable[[Iteration], None]) -> None:
    pairs = pairs_of(1)
    training = Training(3, ROUNDS, 0, 1.0, "c", patience=patience)
    fit_items(pairs, csr_array(pairs.T.tocsr()), training, tell)


def by_bpr(patience: float, tell: Callable[[Iteration], None], rate: float = 1e-6, rounds: int = ROUNDS) -> None:
    fit_bpr(pairs_of(1), 3, rounds, Ranking(rate), 0, tell, patience=patience)


def by_explicit_als(patience: float, tell: Callable[[Iteration], None]) -> None:
    fit_als(ratings_of(3), 3, ROUNDS, RIDGES, 0, tell, patience=patience)


def by_descent(patience: float, tell: Callable[[Iteration], None]) -> None:
    # So long a step that it overshoots.
    fit_sgd(ratings_of(3), 3, ROUNDS, Descent(0.4, decay=1.0), 0, tell, patience=patience)


@pytest.fixture
def rising(monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses of both kinds of ALS rise, as with decay they may."""
    half_step, of_als, of_ratings = als.half_step, count(100.0), count(100.0)

    def risen(*arguments: object, **more: object) -> float:
        half_step(*arguments, **more)  # type: ignore[arg-type]
        return next(of_als)

    monkeypatch.setattr(als, "half_step", risen)
    monkeypatch.setattr(explicit, "loss", lambda *_: next(of_ratings))


@pytest.mark.usefixtures("rising")
@pytest.mark.parametrize("fit", [by_als, by_bpr, by_explicit_als, by_descent])
def test_patience_ends_a_training_and_without_it_nothing_does(fit: Fit) -> None:
    """0 takes every round though the loss rises; half of the loss a round is more than any of them keeps up."""
    told: list[Iteration] = []
    fit(0.0, told.append)
    assert any(after.loss > before.loss for before, after in pairwise(told))
    assert len(told) == ROUNDS
    assert np.isfinite(told[-1].loss)
    short: list[Iteration] = []
    fit(0.5, short.append)
    assert len(short) < ROUNDS


def test_what_the_draw_of_an_epoch_does_ends_nothing() -> None:
    """BPR's epochs are of other pairs each: their loss rises by chance while the model still learns."""
    told: list[Iteration] = []
    by_bpr(1e-3, told.append, rate=0.05, rounds=40)
    rises = [number for number, (before, after) in enumerate(pairwise(told), 1) if after.loss > before.loss]
    assert rises
    assert rises[0] < len(told) - 2
