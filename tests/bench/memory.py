"""Does a worker's memory stand still while ever more users stream through it?

New users arrive in steps of `STEP`, each with two events, some time apart. After each step the worker has committed
all of it, and its resident memory is read. What counts is the slope of a line through the samples after the first
50,000 users. The store's cache is bounded, small enough to be full by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from ops.broker.ports import free_ports
from tests.bench.cluster import Placed, prepare
from tests.bench.lines import contending, ours
from tests.bench.world import World, event

STEP = 5_000
CACHE_MB = 16
LEFT_OUT = 50_000
ALLOWED_MB = 5.0
"""For each further 100,000 users."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Samples: (users so far, resident MB)."""

    samples: list[tuple[int, float]]

    @property
    def slope(self) -> float:
        """MB for each 100,000 further users, of the samples after the first 50,000 users."""
        users, sizes = np.array([sample for sample in self.samples if sample[0] >= LEFT_OUT]).T
        return float(np.polyfit(users / 1e5, sizes, 1)[0])

    def line(self) -> str:
        """For people."""
        at = dict(self.samples)
        last = max(at)
        return (
            f"memory: {at[LEFT_OUT]:.0f} MB after {LEFT_OUT:,} users, {at[last]:.0f} MB after {last:,}: "
            f"{self.slope:+.1f} MB for each further 100,000 (at most {ALLOWED_MB:.0f} allowed), "
            f"with a store cache of {CACHE_MB} MB"
        )


def measure(servers: str, world: World, state: Path, logs: Path, say: Callable[[str], None] = lambda _: None) -> Memory:
    """Stream all of the world's users through a fresh worker on an empty broker."""
    prepare(servers, world, rows=False)
    (port,) = free_ports(1)
    samples = []
    line = ours(servers, state, logs, port=port, state__cache_mb=CACHE_MB)
    with contending(line, servers, world.partitions) as worker:
        watched = psutil.Process(worker.process.pid)
        for users in range(STEP, world.users + 1, STEP):
            worker.warm_up(list(_events(world, users - STEP, users)))
            samples.append((users, watched.memory_info().rss / 2**20))
            say(f"{users:8,} users: {samples[-1][1]:.1f} MB")
    return Memory(samples)


def _events(world: World, first: int, end: int) -> Iterator[Placed]:
    """Two events of each user of [first, end); the second comes a thousand users later."""
    _, items, _ = world.drawn(2 * (end - first), first)
    order = np.concatenate((np.arange(first, end), np.maximum(np.arange(first, end) - 1_000, 0)))
    place = np.argsort(np.tile(np.arange(end - first), 2), kind="stable")
    for number, user in enumerate(order[place].tolist()):
        yield int(world.partition_of[user]), event(user, items[number], "click", world.now, f"{first}-{number}")
