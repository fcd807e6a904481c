"""A user's vector: conjugate gradients over the user's own rows, the twin of `streamer.factors.gradients`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from streamer.factors.kernel.jit import FAST, copy, fill, jit, prefetch
from streamer.factors.kernel.rows import H_EVENT_TIME, H_GENERATION, Row
from streamer.factors.kernel.rules import F_COLD, F_KNOWN, F_RESIDUAL, F_STEPS, Rules

_CLOSE = 1.0 - 1e-4  # longer vectors are the guard's
_TINY = np.float32(1e-30)
UNROLL = 4
_LINE = 16  # float32 numbers of a cache line


class Space(NamedTuple):
    """What the solve reads of the space (`ItemSpace.tables`), and the remainder, (0, k) for none.

    spread: (k,) where users have ridges of their own, and empty where L is a triangle.
    """

    hashes: Any
    values: Any
    whitened: Any
    leverage: Any
    lower: Any
    inverse: Any
    spread: Any
    remainder: Any


class Work(NamedTuple):
    """Scratch of one solve, reused for every user: by history entry, by gathered row, by dimension."""

    ages: Any
    bits: Any
    share: Any
    confidence: Any
    found: Any
    rows: Any
    d: Any
    q: Any
    zero: Any
    y: Any
    r: Any
    p: Any
    z: Any
    scale: Any
    wide: Any
    exact: Any


@jit()
def find(hashes: Any, values: Any, item: Any) -> Any:
    """The item's index in the space, -1 where it is unknown."""
    mask = np.uint64(hashes.size - 1)
    slot = item & mask
    while hashes[slot] != 0:
        if hashes[slot] == item:
            return values[slot]
        slot = (slot + np.uint64(1)) & mask
    return -1


@jit(fastmath=FAST)
def dot(a: Any, b: Any) -> Any:
    """Their inner product."""
    total = np.float32(0)
    for j in range(a.size):
        total += a[j] * b[j]
    return total


@jit(fastmath=FAST)
def normal(rows: Any, count: int, d: Any, q: Any, x: Any, out: Any) -> None:
    """W'(q - D W x) of the first `count` rows, a multiple of four."""
    fill(out, 0, 0)
    for i in range(0, count, UNROLL):
        s, t, u, v = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for j in range(x.size):
            s += rows[i, j] * x[j]
            t += rows[i + 1, j] * x[j]
            u += rows[i + 2, j] * x[j]
            v += rows[i + 3, j] * x[j]
        s, t = q[i] - d[i] * s, q[i + 1] - d[i + 1] * t
        u, v = q[i + 2] - d[i + 2] * u, q[i + 3] - d[i + 3] * v
        for j in range(x.size):
            out[j] += s * rows[i, j] + t * rows[i + 1, j] + u * rows[i + 2, j] + v * rows[i + 3, j]


@jit(fastmath=FAST)
def subtract_product(matrix: Any, x: Any, out: Any, scale: Any, scaled: bool) -> None:
    """Subtract matrix' x, with the scale on both sides if it is scaled; nothing where the matrix is empty."""
    for i in range(len(matrix)):
        row = matrix[i]
        if scaled:
            own = x[i] * scale[i]
            for j in range(x.size):
                out[j] -= own * scale[j] * row[j]
        else:
            for j in range(x.size):
                out[j] -= x[i] * row[j]


@jit(fastmath=FAST)
def gradients(work: Work, count: int, remainder: Any, scaled: bool, rules: Rules) -> Any:
    """Solve in place in `work.y`; returns the steps taken and the relative residual, squared."""
    rows, d, y, r, p, z = work.rows, work.d, work.y, work.r, work.p, work.z
    normal(rows, count, d, work.q, y, r)
    for j in range(y.size):
        r[j] -= y[j]
    subtract_product(remainder, y, r, work.scale, scaled)
    copy(r, 0, p, 0, r.size)
    rho, size, bound = dot(r, r), dot(y, y), np.float32(rules.tolerance * rules.tolerance)
    step = 0
    while step < rules.max_steps and not rho <= bound * size:
        step += 1
        normal(rows, count, d, work.zero, p, z)
        subtract_product(remainder, p, z, work.scale, scaled)
        for j in range(y.size):
            z[j] = p[j] - z[j]
        alpha = rho / max(dot(p, z), _TINY)
        for j in range(y.size):
            r[j] -= alpha * z[j]
            y[j] += alpha * p[j]
        before, rho = rho, dot(r, r)
        beta = rho / max(before, _TINY)
        for j in range(y.size):
            p[j] = r[j] + beta * p[j]
        size = dot(y, y)
    return step, rho / max(size, _TINY)


@jit(fastmath=FAST)
def product(lower: Any, x: Any, out: Any, whole: bool) -> None:
    """Set `out` to lower' x, four rows at a time; unless it is ``whole``, `lower` has zeros above its diagonal."""
    fill(out, 0, 0)
    k = x.size
    for i in range(0, k - k % UNROLL, UNROLL):
        s, t, u, v = x[i], x[i + 1], x[i + 2], x[i + 3]
        for j in range(k if whole else i + UNROLL):
            out[j] += s * lower[i, j] + t * lower[i + 1, j] + u * lower[i + 2, j] + v * lower[i + 3, j]
    for i in range(k - k % UNROLL, k):
        a, s = lower[i], x[i]
        for j in range(k if whole else i + 1):
            out[j] += s * a[j]


@jit(fastmath=FAST)
def whiten(vector: Any, lower: Any, y: Any, scale: Any, scaled: bool) -> None:
    """Set y to L' x, in the user's own scale if there is one; zero where that is not finite."""
    product(lower, vector, y, scaled)
    if scaled:
        for j in range(y.size):
            y[j] /= scale[j]
    if not dot(y, y) <= np.float32(3e38):
        fill(y, 0, 0)


@jit(fastmath=FAST)
def unwhiten(work: Work, inverse: Any, scaled: bool, vector: Any) -> float:
    """Set `vector` to L^-T y, multiplied in float64 and rounded; returns its squared length."""
    y, wide, exact = work.y, work.wide, work.exact
    for i in range(y.size):
        wide[i] = np.float64(y[i])
        if scaled:
            wide[i] *= np.float64(work.scale[i])
    product(inverse, wide, exact, scaled)
    total = 0.0
    for i in range(y.size):
        vector[i] = np.float32(exact[i])
        total += np.float64(vector[i]) * np.float64(vector[i])
    return total


@jit(fastmath=FAST)
def rescale(work: Work, known: int, space: Space, rules: Rules) -> None:
    """Put the rows into the scale in which a user of so many known items has the ridge of all."""
    own = rules.ridge * (known + rules.ridge_offset) ** rules.ridge_nu - rules.ridge_floor
    for j in range(space.spread.size):
        work.scale[j] = np.float32(1.0 / np.sqrt(1.0 + own * space.spread[j]))
    for i in range(known):
        for j in range(space.spread.size):
            work.rows[i, j] *= work.scale[j]


@jit()
def gather(row: Row, entries: int, space: Space, work: Work, rules: Rules) -> Any:
    """Find the history in the space and fetch the rows of what is known and inside of the window.

    Returns how many these are, and whether the solve is easy.
    """
    k, known, trace, peak = rules.dimension, 0, np.float32(0), np.float32(0)
    # Rows and slots lie anywhere: all are sent for before the first is needed.
    mask = np.int64(space.hashes.size - 1)
    oldest = row.head8[H_EVENT_TIME] - rules.window_ms
    for i in range(entries):
        prefetch(space.hashes, np.int64(row.item[i]) & mask)
        prefetch(space.values, np.int64(row.item[i]) & mask)
    for i in range(entries):
        index = find(space.hashes, space.values, row.item[i])
        if index >= 0 and row.time[i] >= oldest:
            work.found[known] = index
            for j in range(0, k, _LINE):
                prefetch(space.whitened, np.int64(index) * k + j)
            work.d[known] = np.float32(work.confidence[i] - 1.0)
            work.q[known] = work.d[known] + np.float32(rules.right)
            load = work.d[known] * space.leverage[index]
            trace += load
            peak = max(peak, load)
            known += 1
    easy = trace <= rules.max_trace and peak <= rules.max_peak
    if easy:
        for i in range(known):
            index = work.found[i]
            for j in range(k):
                work.rows[i, j] = space.whitened[index, j]
        if space.spread.size:
            rescale(work, known, space, rules)
        # Rows of no weight make the count a multiple of what is unrolled.
        for i in range(known, (known + UNROLL - 1) // UNROLL * UNROLL):
            for j in range(k):
                work.rows[i, j] = 0
            work.d[i], work.q[i] = 0, 0
    return known, easy


@jit()
def solve(row: Row, entries: int, average: Any, space: Space, work: Work, rules: Rules, facts: Any) -> Any:
    """Set the row's vector; returns its squared length, or -1 where that is not for the kernel to do."""
    known, easy = gather(row, entries, space, work, rules)
    if known == 0:
        copy(average, 0, row.vector, 0, average.size)
        square = 0.0
        for j in range(average.size):
            square += np.float64(average[j]) * np.float64(average[j])
        facts[F_COLD] += 1
        return square
    if not easy:
        return -1.0
    scaled = space.spread.size > 0
    if row.head8[H_GENERATION] == rules.generation:
        whiten(row.vector, space.lower, work.y, work.scale, scaled)
    else:
        fill(work.y, 0, 0)
    count = (known + UNROLL - 1) // UNROLL * UNROLL
    before = dot(work.y, work.y)
    steps, residual = gradients(work, count, space.remainder, scaled, rules)
    shrunk = dot(work.y, work.y) * np.float32(rules.max_shrink) < before
    if shrunk or not residual <= np.float32(rules.tolerance * rules.tolerance):
        return -1.0
    square = unwhiten(work, space.inverse, scaled, row.vector)
    if not square <= rules.norm_cap * rules.norm_cap * _CLOSE:
        return -1.0
    facts[F_KNOWN] += known
    facts[F_STEPS] = max(facts[F_STEPS], np.float64(steps))
    facts[F_RESIDUAL] = max(facts[F_RESIDUAL], np.float64(residual))
    return square
