"""Batch ALS beside `implicit`'s, in one run, on the same matrix with the same threads: time to equal NDCG.

    pip install implicit && python -m tests.bench.bench_als [--interactions 10000000] [--dimension 64 128] [--seed 0 1]

Both fit the same confidences (c = 1 + 5 log1p(strength), b = sum c v) with the same ridge, three steps of conjugate
gradients and small random starts, in turns, one iteration at a time. After some of them the item vectors are
judged alike, outside of the clock: users of a sample are solved exactly from what they had, and their held-back item is
looked for among the items that they had not (NDCG@10). Reported is the time until each is within 0.002 of the best
that either reached: on the wall, and of the processors, which other work on them disturbs less. The difference of two
NDCGs is judged on the same users, so its standard error is that of the paired differences.

First, the memory of a fit in a process of its own, per interaction (Linux).
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, csr_matrix, load_npz, save_npz
from threadpoolctl import threadpool_limits

from bootstrap.als import Training, first_items, fit_items, half_step
from bootstrap.users import padded
from streamer.factors.solve import solve_batch
from streamer.factors.space import ItemSpace

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
NEAR = 0.002
_RIDGE, _K = 10.0, 10
_SCORED = 500  # users whose scores are held at once


@dataclass(frozen=True, slots=True)
class World:
    """train: (users, items) confidences; held: one held-back item of each of ``judged`` users."""

    train: csr_array
    judged: npt.NDArray[np.intp]
    held: npt.NDArray[np.intp]


def world(interactions: int, seed: int, judged: int) -> World:
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
    chosen = draw.choice(users, min(judged, users), replace=False)
    held = np.array([draw.choice(whole.indices[whole.indptr[u] : whole.indptr[u + 1]]) for u in chosen])
    # What is held back leaves the matrix.
    keep = np.ones(whole.nnz, bool)
    for u, i in zip(chosen, held, strict=True):
        part = slice(whole.indptr[u], whole.indptr[u + 1])
        keep[part] &= whole.indices[part] != i
    rows = np.repeat(np.arange(users), np.diff(whole.indptr))[keep]
    train = csr_array((whole.data[keep], (rows, whole.indices[keep])), shape=whole.shape)
    return World(train, chosen, held)


def gains(made: World, v: F32) -> F64:
    """1/log2(position + 2) of each held-back item by these item vectors, 0 beyond ten; users solved to 1e-6."""
    count, out = len(v), np.zeros(len(made.judged))
    space = ItemSpace(v.shape[1], _RIDGE, capacity=count)
    space.put(space.add([str(item) for item in range(count)], np.arange(1, count + 1, dtype=np.uint64)), v)
    space.recount()
    space.refactor()
    items = made.train.indices.astype(np.int32)
    for start in range(0, len(made.judged), _SCORED):
        part = slice(start, start + _SCORED)
        index, c = padded(made.train.indptr, items, made.train.data, made.judged[part])
        scores = solve_batch(space, index, c, "c", None, 1e-6).vectors @ v.T
        target = np.take_along_axis(scores, made.held[part, None], axis=1)
        user, slot = np.nonzero(index >= 0)
        scores[user, index[user, slot]] = -np.inf
        position = np.count_nonzero(scores > target, axis=1)
        out[part] = np.where(position < _K, 1 / np.log2(position + 2), 0.0)
    return out


@dataclass(slots=True)
class Contender:
    """One side: ``step`` does an iteration and returns the item vectors; ``judged``: gains by iteration."""

    name: str
    step: Callable[[], F32]
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    judged: dict[int, F64] = field(default_factory=dict)

    def run(self, made: World, *, judge: bool) -> None:
        """One more iteration."""
        wall, processor = time.perf_counter(), time.process_time()
        v = self.step()
        self.seconds.append(time.perf_counter() - wall)
        self.processor.append(time.process_time() - processor)
        if judge:
            self.judged[len(self.seconds)] = gains(made, v)

    @property
    def best(self) -> float:
        """The highest NDCG so far."""
        return max(float(gain.mean()) for gain in self.judged.values())

    def until(self, quality: float) -> str:
        """When this quality was reached, in words."""
        for number, gain in self.judged.items():
            if gain.mean() >= quality:
                wall, processor = sum(self.seconds[:number]), sum(self.processor[:number])
                return f"iteration {number}, {wall:.1f} s, {processor:.1f} processor s"
        return "never"


def ours(made: World, dimension: int, threads: int, seed: int) -> Contender:
    """This project's half-steps."""
    by_user, by_item = made.train, csr_array(made.train.T.tocsr())
    training = Training(dimension, 1, seed, _RIDGE, "c", threads=threads)
    v = first_items(seed, by_user.shape[1], dimension)
    x = np.zeros((by_user.shape[0], dimension), np.float32)

    def step() -> F32:
        half_step(by_user, v, x, training)
        half_step(by_item, x, v, training, items=True)
        return v

    return Contender("this project", step)


def theirs(made: World, dimension: int, threads: int, seed: int) -> Contender:
    """`implicit`'s ALS on the processor, conjugate gradients, its own defaults otherwise."""
    # Not among the locked dependencies: only whoever compares needs it.
    model_of = importlib.import_module("implicit.als").AlternatingLeastSquares

    matrix = csr_matrix(
        (made.train.data.astype(np.float32), made.train.indices.astype(np.int32), made.train.indptr.astype(np.int32)),
        shape=made.train.shape,
    )
    model = model_of(
        factors=dimension, regularization=_RIDGE, alpha=1.0, iterations=1, num_threads=threads, random_state=seed
    )

    def step() -> F32:
        # fit() goes on from the factors that are there.
        model.fit(matrix, show_progress=False)
        return np.asarray(model.item_factors, np.float32)

    return Contender("implicit", step)


def compare(made: World, dimension: int, threads: int, seed: int, iterations: int) -> None:
    """Both sides in turns, and what came out."""
    _warm(dimension)
    sides = [ours(made, dimension, threads, seed), theirs(made, dimension, threads, seed)]
    for number in range(1, iterations + 1):
        for side in sides:
            side.run(made, judge=1 < number <= 4 or number % 2 == 0 or number == iterations)
    goal = max(side.best for side in sides) - NEAR
    print(f"k {dimension}, seed {seed}: NDCG@10 to reach {goal:.4f}, within {NEAR} of the best")
    for side in sides:
        wall, processor = np.array(side.seconds), np.array(side.processor)
        print(
            f"  {side.name:<13} {side.until(goal)}; an iteration {np.median(wall):.2f} s ({wall.min():.2f} to "
            f"{wall.max():.2f}), of the processors {np.median(processor):.2f} s ({processor.min():.2f} to "
            f"{processor.max():.2f})"
        )
        print("     " + "  ".join(f"{number}: {gain.mean():.4f}" for number, gain in side.judged.items()))
    apart = sides[0].judged[iterations] - sides[1].judged[iterations]
    print(
        f"  {sides[0].name} less {sides[1].name} after {iterations}: {apart.mean():+.4f}, standard error "
        f"{apart.std() / np.sqrt(len(apart)):.4f}, {len(apart):,} users",
        flush=True,
    )


def _warm(dimension: int) -> None:
    """Load what is compiled before the clock runs."""
    one = csr_array(np.full((1, 1), 2.0))
    fit_items(one, one, Training(dimension, 1, 0, _RIDGE, "c"), lambda done: None)


def weigh(file: Path, dimension: int, threads: int) -> None:
    """Fit in this process alone, and say what memory that took beyond that of the program itself."""
    before = _most_memory()
    by_user = csr_array(load_npz(file))
    by_item = csr_array(by_user.T.tocsr())
    fit_items(by_user, by_item, Training(dimension, 1, 0, _RIDGE, "c", threads=threads), lambda one: None)
    taken, pairs = _most_memory() - before, by_user.nnz
    matrices = sum(part.nbytes for side in (by_user, by_item) for part in (side.data, side.indices, side.indptr))
    vectors = 4 * dimension * sum(by_user.shape)
    print(
        f"k {dimension}: a fit takes {taken / 2**20:.0f} MB, {taken / pairs:.0f} bytes a pair: {matrices / pairs:.0f} "
        f"of both matrices, {vectors / pairs:.0f} of the vectors",
        flush=True,
    )


def _most_memory() -> int:
    """Bytes; not from getrusage, where a child begins with its parent's peak."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--dimension", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--judged", type=int, default=20_000)
    parser.add_argument("--weigh", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    with threadpool_limits(1):
        if chosen.weigh:
            weigh(chosen.weigh, chosen.dimension[0], chosen.threads)
            return
        made = world(chosen.interactions, 1, chosen.judged)
        print(f"{made.train.shape[0]:,} users, {made.train.shape[1]:,} items, {made.train.nnz:,} pairs", flush=True)
        with TemporaryDirectory() as folder:
            save_npz(Path(folder) / "train.npz", made.train, compressed=False)
            for dimension in chosen.dimension:
                again = [sys.executable, "-m", "tests.bench.bench_als", "--weigh", f"{folder}/train.npz"]
                subprocess.run([*again, "--dimension", str(dimension), "--threads", str(chosen.threads)], check=True)
        for dimension in chosen.dimension:
            for seed in chosen.seed:
                compare(made, dimension, chosen.threads, seed, chosen.iterations)


if __name__ == "__main__":
    main()
