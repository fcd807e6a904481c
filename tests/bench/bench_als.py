"""Batch ALS beside `implicit`'s, in one run, on the same matrix with the same threads: time to equal NDCG.

    pip install implicit && python -m tests.bench.bench_als [--interactions 10000000] [--dimension 64 128]

Both fit the same confidences (c = 1 + 5 log1p(strength), b = sum c v) with the same ridge, in turns, one iteration at a
time. After each one its item vectors are judged alike, outside of the clock: users of a sample are solved exactly from
what they had, and their held-back item is looked for among the items that they had not (NDCG@10). Reported is the time
until each is within 0.002 of the best that either reached.
"""

from __future__ import annotations

import argparse
import importlib
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, csr_matrix
from threadpoolctl import threadpool_limits

from bootstrap.als import Training, half_step

F32 = npt.NDArray[np.float32]
NEAR = 0.002
_RIDGE, _JUDGED, _K = 10.0, 2_000, 10


@dataclass(frozen=True, slots=True)
class World:
    """train: (users, items) confidences; held: one held-back item of each of ``judged`` users."""

    train: csr_array
    judged: npt.NDArray[np.intp]
    held: npt.NDArray[np.intp]


def world(interactions: int, seed: int) -> World:
    """People with a few tastes among two hundred, items of one taste each with a heavy-tailed popularity."""
    draw = np.random.default_rng(seed)
    users, items, tastes = max(interactions // 50, 100), max(interactions // 500, 1_000), 200
    taste_of = draw.integers(0, tastes, items)
    order = np.argsort(taste_of, kind="stable")
    start = np.searchsorted(taste_of[order], np.arange(tastes + 1))
    mine = draw.integers(0, tastes, (users, 5))
    user = np.repeat(np.arange(users), interactions // users)
    taste = mine[user, np.minimum(draw.geometric(0.4, len(user)) - 1, 4)]
    size = np.diff(start)[taste]
    rank = np.minimum((size * draw.random(len(user)) ** 3).astype(np.int64), size - 1)
    item = order[start[taste] + rank]
    strength = draw.integers(1, 6, len(user)).astype(np.float64)
    whole = csr_array((strength, (user, item)), shape=(users, items))
    whole.sum_duplicates()
    whole.data = 1.0 + 5.0 * np.log1p(whole.data)
    judged = draw.choice(users, min(_JUDGED, users), replace=False)
    held = np.array([draw.choice(whole.indices[whole.indptr[u] : whole.indptr[u + 1]]) for u in judged])
    # What is held back leaves the matrix.
    keep = np.ones(whole.nnz, bool)
    for u, i in zip(judged, held, strict=True):
        part = slice(whole.indptr[u], whole.indptr[u + 1])
        keep[part] &= whole.indices[part] != i
    rows = np.repeat(np.arange(users), np.diff(whole.indptr))[keep]
    train = csr_array((whole.data[keep], (rows, whole.indices[keep])), shape=whole.shape)
    return World(train, judged, held)


def ndcg(made: World, v: F32) -> float:
    """NDCG@10 of the held-back items by these item vectors; users solved exactly."""
    train, k = made.train, v.shape[1]
    wide = v.astype(np.float64)
    gram = wide.T @ wide + _RIDGE * np.eye(k)
    gain = 0.0
    for user, item in zip(made.judged, made.held, strict=True):
        part = slice(train.indptr[user], train.indptr[user + 1])
        seen, c = train.indices[part], train.data[part]
        rows = wide[seen]
        x = np.linalg.solve(gram + (rows.T * (c - 1)) @ rows, rows.T @ c)
        scores = v @ x.astype(np.float32)
        target = scores[item]
        scores[seen] = -np.inf
        position = int((scores > target).sum())
        gain += 1 / np.log2(position + 2) if position < _K else 0.0
    return gain / len(made.judged)


@dataclass(slots=True)
class Contender:
    """One side: ``step`` does an iteration and returns the item vectors."""

    name: str
    step: Callable[[], F32]
    seconds: list[float] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)

    def run(self, made: World) -> None:
        """One more iteration."""
        started = time.perf_counter()
        v = self.step()
        self.seconds.append(time.perf_counter() - started)
        self.quality.append(ndcg(made, v))

    def until(self, quality: float) -> float | None:
        """Seconds until this quality was reached, None where it never was."""
        for number, reached in enumerate(self.quality):
            if reached >= quality:
                return sum(self.seconds[: number + 1])
        return None


def ours(made: World, dimension: int, threads: int) -> Contender:
    """This project's half-steps."""
    by_user, by_item = made.train, csr_array(made.train.T.tocsr())
    training = Training(dimension, 1, 0, _RIDGE, "c", threads=threads)
    draw = np.random.default_rng(0)
    v = (draw.standard_normal((by_user.shape[1], dimension)) / np.sqrt(dimension)).astype(np.float32)
    x = np.zeros((by_user.shape[0], dimension), np.float32)

    def step() -> F32:
        half_step(by_user, v, x, training)
        half_step(by_item, x, v, training)
        out: F32 = v.copy()
        return out

    return Contender("this project", step)


def theirs(made: World, dimension: int, threads: int) -> Contender:
    """`implicit`'s ALS on the processor, conjugate gradients, its own defaults otherwise."""
    # Not among the locked dependencies: only whoever compares needs it.
    model_of = importlib.import_module("implicit.als").AlternatingLeastSquares

    matrix = csr_matrix(
        (made.train.data.astype(np.float32), made.train.indices.astype(np.int32), made.train.indptr.astype(np.int32)),
        shape=made.train.shape,
    )
    model = model_of(
        factors=dimension, regularization=_RIDGE, alpha=1.0, iterations=1, num_threads=threads, random_state=0
    )

    def step() -> F32:
        # fit() goes on from the factors that are there.
        model.fit(matrix, show_progress=False)
        return np.asarray(model.item_factors, np.float32)

    return Contender("implicit", step)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--dimension", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    made = world(chosen.interactions, 1)
    print(f"{made.train.shape[0]:,} users, {made.train.shape[1]:,} items, {made.train.nnz:,} pairs")
    with threadpool_limits(1):
        for dimension in chosen.dimension:
            sides = [ours(made, dimension, chosen.threads), theirs(made, dimension, chosen.threads)]
            for _ in range(chosen.iterations):
                for side in sides:
                    side.run(made)
            goal = max(max(side.quality) for side in sides) - NEAR
            for side in sides:
                took, middle = side.until(goal), float(np.median(side.seconds))
                told = "never" if took is None else f"{took:.1f} s"
                print(
                    f"k {dimension}  {side.name:<13} iteration {middle:.2f} s ({min(side.seconds):.2f} to "
                    f"{max(side.seconds):.2f})  NDCG@10 {max(side.quality):.4f}  within {NEAR} of the best: {told}"
                )
                print("     " + " ".join(f"{quality:.4f}" for quality in side.quality))
    print(f"most memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
