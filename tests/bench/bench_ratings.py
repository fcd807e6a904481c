"""RMSE on MovieLens-100K: five seeded random splits, 80 % to learn and 20 % to foretell, no timestamps used.

    python -m tests.bench.bench_ratings             the table
    python -m tests.bench.bench_ratings --search    what chose the parameters below: see `search`
    python -m tests.bench.bench_ratings --surprise  scikit-surprise on the same splits (pip install scikit-surprise)

What is foretold is clipped to 1 to 5, as scikit-surprise does. One model a split and row, no average over seeds.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from bootstrap.descent import Descent, fit_sgd
from bootstrap.explicit import Fitted, Ratings, Ridges, biases_only, fit_als
from ops.data import CACHE, movielens
from schemas.records import Policy
from streamer.factors.explicit import solve_ratings

Index = npt.NDArray[np.intp]
Found = dict[str, Any]
Predict = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.float64]]

SPLITS = range(5)
# Chosen by --search on inner splits of the training part; see there.
ALS: Found = {"dimension": 50, "rounds": 20, "ridge": 13.5, "ridge_bias": 3.0}
SGD: Found = {"dimension": 200, "epochs": 60, "rate": 0.012, "reg": 0.1, "reg_biases": 0.02, "reg_seen": 0.0}
SEEN: Found = {"dimension": 100, "epochs": 60, "rate": 0.005, "reg": 0.12, "reg_biases": 0.02, "reg_seen": 0.3}
BIASES = Ridges(1.0, 1.0, 5.0, 3.0)
PUBLISHED = {"SVD": 0.934, "SVD++": 0.919, "NMF": 0.963, "k-NN Baseline": 0.931, "Baseline": 0.944}
SOURCE = "README of scikit-surprise 1.1.5, https://pypi.org/project/scikit-surprise/1.1.5/, its own 5-fold CV"


def load(cache: Path) -> Ratings:
    """All 100,000 ratings; users and items numbered by id."""
    events = movielens.load_ratings(cache).events
    user = np.unique([event["user_id"] for event in events], return_inverse=True)[1].astype(np.int64)
    item = np.unique([event["item_id"] for event in events], return_inverse=True)[1].astype(np.int64)
    rating = np.array([event["value"] for event in events])
    # Every time is 0: a random split must not be foretold by what came after it.
    nothing = np.zeros(len(rating), np.int64)
    return Ratings(user, item, rating, np.ones(len(rating)), nothing, int(user.max()) + 1, int(item.max()) + 1)


def part(whole: Ratings, chosen: Index) -> Ratings:
    """Some of the ratings, of the same users and items."""
    columns = {name: getattr(whole, name)[chosen] for name in ("user", "item", "rating", "weight", "time")}
    return replace(whole, **columns)


def split(whole: Ratings, seed: int, share: float = 0.8) -> tuple[Ratings, Ratings]:
    """A random ``share`` to learn, and the rest."""
    order = np.random.default_rng(seed).permutation(len(whole))
    cut = round(len(whole) * share)
    return part(whole, order[:cut]), part(whole, order[cut:])


def rmse(predict: Predict, test: Ratings) -> float:
    """Root of the mean squared error, clipped to the scale."""
    told = np.clip(predict(test.user, test.item), 1.0, 5.0)
    return float(np.sqrt(np.mean((told - test.rating) ** 2)))


def als(train: Ratings, seed: int, *, dimension: int, rounds: int, ridge: float, ridge_bias: float) -> Fitted:
    """ALS with these parameters."""
    return fit_als(train, dimension, rounds, Ridges(ridge, ridge, ridge_bias, ridge_bias), seed)


def sgd(
    train: Ratings, seed: int, *, dimension: int, epochs: int, rate: float, reg: float, reg_biases: float,
    reg_seen: float,
) -> Fitted:  # fmt: skip
    """Descent with these parameters."""
    descent = Descent(rate, reg_users=reg, reg_items=reg, reg_biases=reg_biases, reg_seen=reg_seen)
    return fit_sgd(train, dimension, epochs, descent, seed)


def folded(train: Ratings, items: Fitted, ridge: float, ridge_bias: float) -> Fitted:
    """The same items, and every user solved from the ratings as the stream does it."""
    policy, users = Policy(feedback="explicit", ridge=ridge, ridge_bias=ridge_bias), np.zeros_like(items.users)
    rows = items.items.astype(np.float32)
    order = np.argsort(train.user, kind="stable")
    for mine in np.split(order, np.cumsum(np.bincount(train.user, minlength=train.users))[:-1]):
        if len(mine):
            known = rows[train.item[mine]]
            users[train.user[mine[0]]] = solve_ratings(
                known, train.rating[mine], train.weight[mine], items.mean, policy
            )
    return Fitted(users, rows.astype(np.float64), items.mean)


def rows_of(train: Ratings, seed: int) -> dict[str, Predict]:
    """The rows of the table."""
    plain, seen, mean = sgd(train, seed, **SGD), sgd(train, seed, **SEEN), train.mean
    return {
        "global mean": lambda user, item: np.full(len(user), mean),
        "biases only": biases_only(train, BIASES).predict,
        "SGD, without what was rated at all": plain.predict,
        "  users solved as the stream does": folded(train, plain, ALS["ridge"], ALS["ridge_bias"]).predict,
        "SGD": seen.predict,
        "  users solved as the stream does ": folded(train, seen, ALS["ridge"], ALS["ridge_bias"]).predict,
        "ALS (users as the stream's)": als(train, seed, **ALS).predict,
    }


def rivals(train: Ratings, seed: int) -> dict[str, Predict]:
    """scikit-surprise with its own defaults, on the same ratings."""
    # Not among the locked dependencies: only whoever compares needs it.
    surprise = importlib.import_module("surprise")
    dataset = importlib.import_module("surprise.dataset")
    lines = [(int(u), int(i), float(r), None) for u, i, r in zip(train.user, train.item, train.rating, strict=True)]
    trainset = dataset.Dataset(surprise.Reader(rating_scale=(1, 5))).construct_trainset(lines)
    named: dict[str, Any] = {
        "scikit-surprise SVD": surprise.SVD(random_state=seed),
        "scikit-surprise k-NN Baseline": surprise.KNNBaseline(verbose=False),
        "scikit-surprise SVD++": surprise.SVDpp(random_state=seed, cache_ratings=True),
    }
    return {name: _told_by(model.fit(trainset)) for name, model in named.items()}


def _told_by(model: Any) -> Predict:
    return lambda user, item: np.array([model.predict(int(u), int(i)).est for u, i in zip(user, item, strict=True)])


def table(whole: Ratings, contenders: Callable[[Ratings, int], dict[str, Predict]]) -> None:
    """Print mean and spread of every row over the splits."""
    found: dict[str, list[float]] = {}
    for seed in SPLITS:
        train, test = split(whole, seed)
        for name, predict in contenders(train, seed).items():
            found.setdefault(name, []).append(rmse(predict, test))
    for name, values in found.items():
        each = " ".join(f"{value:.4f}" for value in values)
        print(f"{name:<36} {np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}   {each}", flush=True)


def search(whole: Ratings) -> None:
    """Every combination on the first two training parts, each cut 90 to 10 once more.

    The tests of these two splits are not looked at. One choice serves all five: what the other three splits test is for
    the most part in these two training parts.
    """
    inner = [split(split(whole, seed)[0], 100 + seed, 0.9) for seed in SPLITS[:2]]

    def tried(fit: Callable[..., Fitted], **grid: list[float]) -> None:
        results = []
        for values in itertools.product(*grid.values()):
            chosen = dict(zip(grid, values, strict=True))
            error = float(np.mean([rmse(fit(train, 0, **chosen).predict, test) for train, test in inner]))
            results.append((error, chosen))
            print(f"{fit.__name__} {chosen}: {error:.4f}", flush=True)
        print(f"best {fit.__name__}: {min(results, key=lambda one: one[0])}", flush=True)

    tried(als, dimension=[50], rounds=[20], ridge=[12.0, 13.5, 15.0], ridge_bias=[2.0, 3.0, 4.0])
    plain = {"rate": [0.012], "reg": [0.09, 0.1, 0.11], "reg_biases": [0.02], "reg_seen": [0.0]}
    tried(sgd, dimension=[200], epochs=[60], **plain)
    seen = {"rate": [0.005], "reg": [0.12, 0.15, 0.18], "reg_biases": [0.02], "reg_seen": [0.08, 0.15, 0.3]}
    tried(sgd, dimension=[100], epochs=[60], **seen)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--surprise", action="store_true")
    parser.add_argument("--cache", type=Path, default=CACHE)
    chosen = parser.parse_args()
    whole = load(chosen.cache)
    with threadpool_limits(1):
        if chosen.search:
            search(whole)
            return
        print(f"RMSE, mean ± standard deviation of {len(SPLITS)} random 80/20 splits, and each of them")
        table(whole, rows_of)
        if chosen.surprise:
            table(whole, rivals)
    print(f"published: {', '.join(f'{name} {value}' for name, value in PUBLISHED.items())}\n  ({SOURCE})")


if __name__ == "__main__":
    main()
