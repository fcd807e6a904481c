"""The user step alone, without broker and store: `python -m tests.bench.bench_step [--batch 1000] [--sample 0.01]`.

One event a user and batch, as users drawn evenly from many give it: microseconds an event to read (decode, validate,
filter, hash), to apply, and of that in the kernel's fold and solve. One thread; the median of the batches. With
``--sample`` also what the judge then takes for an event of the sample, in its own thread in a worker;
``--policy '{"ridge_nu": 1.0}'`` measures another policy than the default one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from streamer.events.read import Reader
from streamer.factors.frozen import FrozenItems
from streamer.factors.ridge import ridge_in
from streamer.steps.items import Items
from streamer.steps.judge import Judge
from streamer.steps.user import UserStep, UserTopics
from tests.bench.world import ITEM_KEY, World, item_id
from tests.streamer.steps.world import FakeRecord


def step_of(world: World, sample: float = 0.0) -> tuple[UserStep, Items]:
    """The step over the world's items, and these; all users are of the one partition."""
    items = Items(dimension=64, ridge=ridge_in(world.manifest), item_key=bytes.fromhex(ITEM_KEY), partitions=8)
    items.put([item_id(number) for number in range(world.items)], [1] * world.items, world.vectors)
    items.settle()
    step = UserStep(
        world.manifest,
        items,
        UserTopics("interactions", "user-factors", "item-signals", "dead-letters", 1),
        Reader(world.policy, tenant=None, max_bytes=65_536, invalid_items=items.invalid),
        solver="cg",
        tolerance=1e-6,
        encoding="json",
        source="bench",
        sample=sample,
    )
    return step, items


def batches(world: World, size: int, count: int) -> Iterator[list[FakeRecord]]:
    """Batches of events of as many users, none of which suppresses anything."""
    found: list[FakeRecord] = []
    seen: set[bytes] = set()
    now = time.time_ns() // 1_000_000
    for offset, (_, (key, value, *_)) in enumerate(world.events(2 * size * count, 1)):
        if key not in seen and not any(kind in value for kind in (b'"hide"', b'"dislike"', b'"return"')):
            seen.add(key)
            found.append(FakeRecord(key, value, offset, now))
        if len(found) == size:
            yield found
            found, seen = [], set()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--sample", type=float, default=0.0, help="as quality.sample")
    parser.add_argument("--policy", type=json.loads, default={}, help="fields of the policy, as JSON")
    chosen = parser.parse_args()
    world = World(users=chosen.users, options=chosen.policy)
    rows: dict[Any, Any] = {record[0]: record[1] for _, record in world.rows()}
    step, items = step_of(world, chosen.sample)
    items.trained = FrozenItems(items.space, items.space.ids)
    judge, judged, judging = Judge(world.manifest, items), 0, 0.0
    kernel: list[float] = [0.0]
    if (compiled := step._compiled) is not None:
        refresh = compiled._refresh

        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = refresh(*arguments)
            kernel[0] += time.perf_counter() - started
            return result

        compiled._refresh = timed
    sampling = [0.0]
    if step._sampler is not None:
        sample = step._sampler.sample

        def timed_sample(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = sample(*arguments)
            sampling[0] = time.perf_counter() - started
            return result

        step._sampler.sample = timed_sample  # type: ignore[assignment,method-assign]
    seconds: list[tuple[float, float, float, float]] = []
    with threadpool_limits(1):
        for records in batches(world, chosen.batch, chosen.batches):
            kernel[0] = 0.0
            started = time.perf_counter()
            batch = step.read(records, 0)
            read = time.perf_counter()
            theirs = [rows.get(key) for key in batch.keys]
            ready = time.perf_counter()
            effects = step.apply(batch, theirs)
            seconds.append((read - started, time.perf_counter() - ready, kernel[0], sampling[0]))
            step.reuse(effects)
            for trials in [sampled.trials for sampled in effects.sampled if sampled.trials is not None]:
                started = time.perf_counter()
                judge.judge(trials)
                judging += time.perf_counter() - started
                judged += len(trials)
    read_us, apply_us, kernel_us, sampling_us = np.median(np.array(seconds[3:]), axis=0) / chosen.batch * 1e6
    print(
        f"{len(seconds)} batches of {chosen.batch} events, {chosen.users:,} users: read {read_us:.1f}, apply "
        f"{apply_us:.1f} microseconds an event, of it {kernel_us:.1f} to fold and solve "
        f"and {sampling_us:.2f} to sample"
    )
    if judged:
        print(f"{judged} sampled events judged among {world.items:,} items: {judging / judged * 1e6:.0f} us each")


if __name__ == "__main__":
    main()
