"""How fast the user solve is, and how exact: `python -m tests.bench.bench_solve [--quick] [--others]`.

Interactions are planted (tastes in clusters, popularity by a power law), item factors trained on them by a few sweeps
of ALS, so that norms and spectrum are those of a real model. "cold" starts from nothing; "warm" from the user's
vector before the newest event. One thread, its CPU time, the best of several runs; the error is the largest of the
audited users against float64 Cholesky, relative, in the 2-norm. `--others` measures the solvers that were not taken.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from streamer.factors.solve import Float32Array, FloatArray, solve_batch, solve_cholesky
from streamer.factors.space import ItemSpace
from streamer.factors.table import IndexArray

Interactions = tuple[IndexArray, IndexArray, FloatArray]

TOLERANCE = 4e-6
USERS = 2048
AUDITED = 512


def planted(items: int, users: int, mean: int, random: np.random.Generator) -> Interactions:
    """Interactions as (user, item, strength): three in four from the user's two clusters, the rest from all items."""
    clusters = 60
    popularity = (np.arange(items) + 20.0) ** -0.8
    cluster = random.integers(0, clusters, items)
    by_cluster = np.argsort(cluster, kind="stable")
    ends = np.cumsum(popularity[by_cluster])
    edges = np.concatenate([[0.0], ends])[np.searchsorted(cluster[by_cluster], np.arange(clusters + 1))]
    count = np.maximum(random.lognormal(np.log(mean), 0.6, users), 5).astype(np.int64)
    user = np.repeat(np.arange(users), count)
    taste = random.integers(0, clusters, (users, 2))[user, random.integers(0, 2, len(user))]
    own = random.random(len(user)) < 0.75
    low, high = np.where(own, edges[taste], 0.0), np.where(own, edges[taste + 1], ends[-1])
    item = by_cluster[np.searchsorted(ends, low + (high - low) * random.random(len(user)) * (1 - 1e-12))]
    pairs = np.unique(user * items + item)
    strength = random.choice([0.5, 1, 1, 2, 3, 4, 5], len(pairs)) * 2.0 ** -random.exponential(0.7, len(pairs))
    return (pairs // items).astype(np.int32), (pairs % items).astype(np.int32), strength


def space_of(vectors: Float32Array, ridge: float) -> ItemSpace:
    """Vectors with arbitrary ids and hashes, whitened."""
    space = ItemSpace(vectors.shape[1], ridge, capacity=len(vectors))
    hashes = np.arange(1, len(vectors) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    space.put(space.add([str(n) for n in range(len(vectors))], hashes), vectors)
    space.refactor()
    return space


def padded(
    row: IndexArray, column: IndexArray, value: FloatArray, rows: int
) -> list[tuple[NDArray[np.intp], IndexArray, FloatArray]]:
    """Rows of (column, value), at most 1,000 a row, as padded blocks of at most 2,048 rows of about equal length."""
    order = np.argsort(row, kind="stable")
    column, value = column[order], value[order]
    count = np.bincount(row, minlength=rows)
    first = np.cumsum(count) - count
    blocks = []
    by_count = np.argsort(count, kind="stable")
    for start in range(0, rows, 2048):
        chosen = by_count[start : start + 2048]
        slot = np.arange(min(int(count[chosen].max()), 1000))
        at = np.minimum(first[chosen, None] + slot, len(column) - 1)
        used = slot < count[chosen, None]
        blocks.append((chosen, np.where(used, column[at], -1).astype(np.int32), np.where(used, value[at], 0.0)))
    return blocks


def trained(interactions: Interactions, sizes: tuple[int, int], k: int, alpha: float, ridge: float) -> Float32Array:
    """Item factors after five sweeps of ALS, by the solver under test."""
    user, item, strength = interactions
    confidence = 1 + alpha * np.log1p(strength)
    vectors = (np.random.default_rng(1).standard_normal((sizes[1], k)) * 0.1).astype(np.float32)
    sides = padded(user, item, confidence, sizes[0]), padded(item, user, confidence, sizes[1])
    for sweep in range(10):
        space = space_of(vectors, ridge)
        vectors = np.zeros((sizes[sweep % 2], k), np.float32)
        for chosen, index, c in sides[sweep % 2]:
            vectors[chosen] = solve_batch(space, index, c, "c", None, 1e-4).vectors
    return vectors


def histories(interactions: Interactions, length: int, random: np.random.Generator) -> tuple[IndexArray, FloatArray]:
    """`USERS` histories of exactly `length` items and their strengths; short users are filled up from the next one."""
    user, item, strength = interactions
    shuffled = np.argsort(user + random.random(len(user)), kind="stable")
    first = np.searchsorted(user[shuffled], random.choice(np.unique(user), USERS))
    at = shuffled[np.minimum(first[:, None] + np.arange(length), len(user) - 1)]
    return item[at], strength[at]


def best(runs: int, users: int, solver: Callable[..., object], *arguments: object) -> float:
    """Microseconds of CPU a user, of the fastest of some runs."""
    times = []
    for _ in range(runs):
        before = time.thread_time()
        solver(*arguments)
        times.append(time.thread_time() - before)
    return min(times) / users * 1e6


def error(vectors: Float32Array, exact: Float32Array) -> float:
    """The largest relative error over the audited users."""
    distance = np.linalg.norm(vectors[: len(exact)].astype(np.float64) - exact, axis=1)
    return float((distance / np.linalg.norm(exact.astype(np.float64), axis=1)).max())


def measure(space: ItemSpace, index: IndexArray, strength: FloatArray, alpha: float, others: bool) -> list[str]:
    """One line a way to solve."""
    confidence = 1 + alpha * np.log1p(strength)
    before = 1 + alpha * np.log1p(0.98 * strength)
    start = solve_batch(space, index[:, :-1], before[:, :-1], "c", None, 1e-6).vectors
    exact = one_by_one(space, index[:AUDITED], confidence[:AUDITED])
    lines = []
    for name, guess in (("cold", None), ("warm", start)):
        arguments = space, index, confidence, "c", guess, TOLERANCE
        out = solve_batch(*arguments)
        lines.append(
            f"{name:9} {best(15, USERS, solve_batch, *arguments):7.2f} us  {out.iterations:2} steps"
            f"  error {error(out.vectors, exact):.1e}  {out.fallbacks} by Cholesky"
        )
    if others:
        for name, solver in (("stacked", stacked), ("woodbury", woodbury)):
            took = best(3, USERS, solver, space, index, confidence)
            off = error(solver(space, index, confidence), exact)
            lines.append(f"{name:9} {took:7.2f} us  {'':8}  error {off:.1e}")
        took = best(3, AUDITED, one_by_one, space, index[:AUDITED], confidence[:AUDITED])
        lines.append(f"{'cholesky':9} {took:7.2f} us  {'':8}  the reference")
    return lines


def one_by_one(space: ItemSpace, index: IndexArray, confidence: FloatArray) -> Float32Array:
    """The reference, user by user."""
    return np.stack([solve_cholesky(space, row, c, "c") for row, c in zip(index, confidence, strict=True)])


def stacked(space: ItemSpace, index: IndexArray, confidence: FloatArray) -> Float32Array:
    """All systems formed by a batched product, then numpy's batched solve, in whitened float32."""
    out = np.empty((len(index), space.dimension), np.float32)
    for start in range(0, len(index), 64):
        part = slice(start, start + 64)
        rows, c = space.whitened[index[part]], confidence[part].astype(np.float32)
        a = rows.transpose(0, 2, 1) @ (rows * (c - 1)[:, :, None]) + np.eye(space.dimension, dtype=np.float32)
        out[part] = np.linalg.solve(a, np.vecmat(c, rows)[:, :, None])[:, :, 0]
    return space.unwhiten(out)


def woodbury(space: ItemSpace, index: IndexArray, confidence: FloatArray) -> Float32Array:
    """The same through n x n systems: y = W'(q - u), (D^-1 + W W') u = W W' q."""
    out = np.empty((len(index), space.dimension), np.float32)
    for start in range(0, len(index), 64):
        part = slice(start, start + 64)
        rows, c = space.whitened[index[part]], confidence[part].astype(np.float32)
        inner = rows @ rows.transpose(0, 2, 1)
        right = np.matvec(inner, c)
        diagonal = np.arange(index.shape[1])
        inner[:, diagonal, diagonal] += 1 / (c - 1)
        out[part] = np.vecmat(c - np.linalg.solve(inner, right[:, :, None])[:, :, 0], rows)
    return space.unwhiten(out)


def main() -> None:
    """Print a line a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 items, k = 64, n = 50 only")
    parser.add_argument("--others", action="store_true", help="also the solvers that were not taken")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    for items, users, dimensions in ((10_000, 20_000, (64, 32, 128)), (100_000, 60_000, (64,))):
        interactions = planted(items, users, 60, random)
        for k in dimensions[:1] if options.quick else dimensions:
            for alpha, ridge in ((5.0, 10.0), (40.0, 0.05)):
                space = space_of(trained(interactions, (users, items), k, alpha, ridge), ridge)
                for length in (50,) if options.quick else (10, 50, 100):
                    index, strength = histories(interactions, length, random)
                    for line in measure(space, index, strength, alpha, options.others):
                        print(
                            f"items {items:6}  k {k:3}  n {length:3}  alpha {alpha:2.0f}  ridge {ridge:5}  {line}",
                            flush=True,
                        )
        if options.quick:
            break


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
