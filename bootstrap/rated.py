"""From a log of ratings to a model: fold, train, solve the users as the stream does; and what the model foretells.

    fold (a newer rating replaces the older one) -> weigh -> als or sgd -> users by `streamer.factors.explicit`

The items' rows [y, b_i] come from `bootstrap.explicit`; the users' rows [x, b_u] are solved once more against what is
published of them, in float32, so that batch and stream agree.

`examine` tests, then learns, in time order: each later rating of a known item is foretold from its user's history and
then folded into it, and the user is solved again; a return takes its item's rating back; items stand still. Not
clipped: the scale is the data's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bootstrap.columns import POSITIVE
from bootstrap.descent import fit_sgd
from bootstrap.evaluate import split
from bootstrap.explicit import Ratings, biases_only, fit_als
from bootstrap.fold import NothingKeptError, expect_history, fold
from bootstrap.matrix import counted, newer_of, newest_entry, placed
from bootstrap.model import Model, begin
from bootstrap.replay import Past, acts_of
from streamer.errors import CheckFailed
from streamer.factors.coldstart import average_user
from streamer.factors.explicit import replace_ratings, solve_ratings, solve_users, weights_now
from streamer.factors.gram import gramian
from streamer.factors.guard import guard
from streamer.factors.weigh import decay_array, inside_window

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bootstrap.align import Turn
    from bootstrap.als import Iteration
    from bootstrap.columns import Columns
    from bootstrap.fit import Recipe
    from bootstrap.model import Users
    from bootstrap.progress import Show
    from schemas.records import Policy

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
Index = npt.NDArray[np.intp]

LIMIT = 30_000  # ratings foretold at most, the first after the cut
_AUDITED = 256


@dataclass(frozen=True, slots=True)
class Rated:
    """A trained model of ratings; kept (m,): which of the columns' items it knows, in its rows' order.

    items (m, k + 1) and vectors (n, k + 1) float32; average: (k + 1,), where a user has rated no known item.
    """

    users: Users
    ratings: Ratings
    kept: Index
    items: F32
    vectors: F32
    average: F32
    mean: float


def fit(
    columns: Columns, recipe: Recipe, show: Show, start: Mapping[str, F32] | None, turn: Turn | None = None
) -> tuple[Model, float]:
    """The model of all ratings, and the parity error of its user vectors; ``start`` and ``turn`` as in `fit.fit`."""
    made = _train(columns, recipe, show, "fitting", start, turn)
    newest = np.zeros(len(made.kept), np.int64)
    np.maximum.at(newest, made.ratings.item, made.ratings.time)
    model = Model(
        item_ids=[columns.item_ids[item] for item in made.kept.tolist()],
        items=made.items,
        popularity=np.bincount(made.ratings.item, minlength=len(made.kept)).astype(np.float64),
        item_event_time=newest,
        users=made.users,
        user_vectors=made.vectors,
        gramian_items=gramian(made.items[:, :-1]),
        gramian_users=gramian(made.vectors[:, :-1]),
        average_user=made.average,
        mean=made.mean,
    )
    return model, audit(made, recipe.policy)


def _train(
    columns: Columns,
    recipe: Recipe,
    show: Show,
    what: str,
    start: Mapping[str, F32] | None = None,
    turn: Turn | None = None,
) -> Rated:
    policy, training = recipe.policy, recipe.training
    users = fold(columns, policy)
    counts = counted(users, policy)
    expect_history(counts)
    kept, entry_item = placed(columns, counts)
    ratings = ratings_of(counts, entry_item, len(kept), policy)
    ids = [columns.item_ids[item] for item in kept.tolist()]
    began = None if start is None else begin(ids, start, training.dimension + 1)
    with show(what, training.iterations) as say:

        def tell(iteration: Iteration) -> None:
            say(iteration.number, f"loss {iteration.loss:,.0f}")

        shape = training.dimension, training.iterations
        if recipe.objective == "sgd":
            fitted = fit_sgd(
                ratings, *shape, recipe.descent, training.seed, tell, patience=training.patience, start=began
            )
        else:
            fitted = fit_als(
                ratings,
                *shape,
                recipe.ridges,
                training.seed,
                tell,
                patience=training.patience,
                threads=training.threads,
                start=began,
            )
    with np.errstate(over="ignore", invalid="ignore"):
        items = fitted.items.astype(np.float32)
    if not np.isfinite(items).all():
        raise CheckFailed("the fit left the range of float32: lower bootstrap.rate, or raise the ridges.")
    if turn is not None:
        # The users are solved against what is turned, so x.y is what it was; a bias is the same in every space.
        items = np.concatenate([turn(ids, items[:, :-1]), items[:, -1:]], axis=1)
    items = guard(items, policy.norm_cap).vectors
    vectors, average = _solve(ratings, counts.history_start, items, fitted.mean, policy)
    return Rated(users, ratings, kept, items, vectors, average, fitted.mean)


def ratings_of(users: Users, entry_item: I32, items: int, policy: Policy) -> Ratings:
    """Every history entry of users as `counted` gives them as a rating, with its weight in its user's solve."""
    n, lengths = len(users.ids), np.diff(users.history_start)
    age = np.repeat(newest_entry(users), lengths) - users.time
    weight = decay_array(age, policy.rating_half_life_ms)
    if policy.recency_entries:
        weight *= decay_array(newer_of(users), policy.recency_entries)
    user = np.repeat(np.arange(n), lengths)
    return Ratings(user, entry_item.astype(np.int64), users.strength.astype(np.float64), weight, users.time, n, items)


def _solve(ratings: Ratings, start: npt.NDArray[np.int64], items: F32, mean: float, policy: Policy) -> tuple[F32, F32]:
    """Every user's row (n, k + 1), and the average one (k + 1,), which stands in for users without a rating."""
    rows = np.zeros((ratings.users, items.shape[1]), np.float32)
    for user, (first, last) in enumerate(zip(start.tolist(), start[1:].tolist(), strict=False)):
        if last > first:
            mine = slice(first, last)
            rows[user] = solve_ratings(
                items[ratings.item[mine]], ratings.rating[mine], ratings.weight[mine], mean, policy
            )
    rows = guard(rows, policy.norm_cap).vectors
    average = average_user(rows)
    return np.where((np.diff(start) == 0)[:, None], average, rows), average


def audit(made: Rated, policy: Policy) -> float:
    """The largest distance of a spread of users' rows from least squares without normal equations, relative."""
    start = counted(made.users, policy).history_start
    rated = np.flatnonzero(np.diff(start))
    chosen = (
        rated[np.unique(np.linspace(0, len(rated) - 1, min(_AUDITED, len(rated))).astype(int))] if len(rated) else ()
    )
    worst, width = 0.0, made.items.shape[1]
    ridge = np.diag(np.sqrt(np.r_[np.full(width - 1, policy.ridge), policy.ridge_bias]))
    for user in chosen:
        mine = slice(start[user], start[user + 1])
        rows = made.items[made.ratings.item[mine]].astype(np.float64)
        wanted = made.ratings.rating[mine] - made.mean - rows[:, -1]
        rows[:, -1], root = 1.0, np.sqrt(made.ratings.weight[mine])
        exact = np.linalg.lstsq(
            np.vstack([rows * root[:, None], ridge]), np.concatenate([wanted * root, np.zeros(width)])
        )[0]
        exact = guard(exact[None].astype(np.float32), policy.norm_cap).vectors[0]
        distance = float(np.abs(made.vectors[user] - exact).max())
        worst = max(worst, distance / max(1.0, float(np.linalg.norm(exact))))
    return worst


def examine(columns: Columns, recipe: Recipe, show: Show) -> tuple[Rated, dict[str, float]] | None:
    """A model of the ratings before the cut, and its errors over those after it; None where a side has none.

    The errors are those of the model, of it frozen, of biases alone, and of the mean.
    """
    before, after = split(columns, recipe.train_fraction)
    if not len(before) or not len(after):
        return None
    # Log order again: the histories are folded as they were logged.
    try:
        made = _train(columns.take(np.sort(before)), recipe, show, "fitting for the evaluation")
    except NothingKeptError:
        return None
    number = np.full(len(columns.item_ids), -1, np.int64)
    number[made.kept] = np.arange(len(made.kept))
    acts = acts_of(columns, after, LIMIT)
    acts = acts[number[columns.item[acts]] >= 0]
    positive = columns.kind[acts] == POSITIVE
    tests, test = acts[positive], np.cumsum(positive) - 1
    plain = biases_only(made.ratings, recipe.ridges)
    told = {name: np.zeros(len(tests)) for name in ("", "frozen_", "biases_", "mean_")}
    told["mean_"][:] = made.mean
    with show("evaluating", len(tests)) as say:
        done = 0
        replay = _Replay(columns, acts, made, recipe.policy)
        for taken in replay.past.rounds():
            rated = taken[positive[taken]]
            events, row = test[rated], replay.past.row[rated]
            user, item = columns.user[tests[events]], number[columns.item[tests[events]]]
            solved, empty = replay.solve(row, number, made.items)
            now = np.where(empty[:, None], made.average, solved)
            told[""][events] = _told(now, made.items[item], made.mean)
            told["frozen_"][events] = _told(made.vectors[user], made.items[item], made.mean)
            biases = plain.items.astype(np.float32)
            told["biases_"][events] = _told(replay.solve(row, number, biases)[0], biases[item], made.mean)
            replay.past.learn(taken, 0, replace_ratings)
            say(done := done + len(events), "")
    return made, _metrics(columns, before, tests, told)


def _told(users: F32, items: F32, mean: float) -> F64:
    x, y = users.astype(np.float64), items.astype(np.float64)
    return np.asarray(mean + x[:, -1] + y[:, -1] + np.einsum("ij,ij->i", x[:, :-1], y[:, :-1]), np.float64)


def _metrics(columns: Columns, before: Index, tests: Index, told: dict[str, F64]) -> dict[str, float]:
    """Root of the mean squared error and mean absolute error by who foretold, for all, known and new users."""
    known = np.isin(columns.user[tests], columns.user[before[columns.kind[before] == POSITIVE]])
    metrics = {"test_events": float(len(tests)), "scored_events": float(len(tests))}
    for name, values in told.items():
        error = values - columns.weight[tests]
        for whose, part in {"": known | ~known, "known_users_": known, "new_users_": ~known}.items():
            count = max(int(part.sum()), 1)
            metrics[f"{name}{whose}rmse"] = float(np.sqrt(np.sum(error[part] ** 2) / count))
            metrics[f"{name}{whose}mae"] = float(np.sum(np.abs(error[part])) / count)
    return metrics


class _Replay:
    """The users who rate, as they stand; ``past``: what becomes of their histories."""

    def __init__(self, columns: Columns, acts: Index, made: Rated, policy: Policy) -> None:
        self._columns, self._policy, self._mean = columns, policy, made.mean
        self._order = np.argsort(columns.hashes, kind="stable")
        self.past = Past(columns, acts, made.users, policy.history_capacity)

    def solve(self, row: Index, number: npt.NDArray[np.int64], items: F32) -> tuple[F32, npt.NDArray[np.bool_]]:
        """These users as they stand, against ``items``; number: the row of each of the columns' items, -1 for none."""
        now = self.past.histories
        width = max(1, int(now.count[row].max(initial=1)))
        used = np.arange(width) < now.count[row][:, None]
        hashes = self._columns.hashes
        at = np.minimum(np.searchsorted(hashes[self._order], now.items[row, :width]), len(hashes) - 1)
        used &= inside_window(now.time[row, :width], self.past.newest[row, None], self._policy)
        index = np.where(used, number[self._order[at]], -1).astype(np.int32)
        weight = weights_now(now.time[row, :width], used, self._policy)
        rating = now.strength[row, :width].astype(np.float64)
        return solve_users(items, index, rating, weight, self._mean, self._policy)
