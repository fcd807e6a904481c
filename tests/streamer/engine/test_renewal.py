"""How fast the pass over a partition's rows goes after a change of generation: so many rows a second, by its clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from streamer.engine import renewal
from streamer.engine.partition import Partition
from streamer.engine.renewal import RenewalPace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The clock of the pace, which stands still unless a test moves ``now`` (seconds)."""
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(renewal, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_n_rows_take_n_seconds_by_the_rate(clock: Any) -> None:
    """All partitions together; what stood idle is not saved up."""
    pace, chunks = RenewalPace(10), (5, 1, 4, 20)
    for rows in chunks:
        clock.now += pace.wait()
        pace.take(rows)
    clock.now += pace.wait()
    assert clock.now == pytest.approx(1000.0 + sum(chunks) / 10)
    clock.now += 60.0
    pace.take(7)
    pace.take(3)
    assert pace.wait() == pytest.approx(1.0)


class _Passing(Partition):
    """In the midst of its pass, with nothing else to do."""

    renewed = 0

    async def _renew(self, keys: list[bytes], rows: list[bytes | None]) -> None:
        self.renewed += len(keys)


async def _at_once(work: Callable[[], Any]) -> Any:
    return work()


def passing(rows_per_second: int) -> _Passing:
    """Two stale rows a turn, without end."""
    stale = SimpleNamespace(finished=False, chunk=lambda: ([b"ann", b"bob"], [b"", b""]))
    lanes = SimpleNamespace(store=SimpleNamespace(run=_at_once))
    role: Any = SimpleNamespace(
        name="users", max_batch_events=1, step=None, lanes=lanes, pace=RenewalPace(rows_per_second)
    )
    nobody: Any = None
    partition = _Passing(TopicPartition("t", 0), role, nobody, nobody, nobody)
    made: Any = stale
    partition._renewal = made
    return partition


async def test_a_partitions_pass_waits_for_its_turn(clock: Any) -> None:
    """However often the partition looks; a batch is what it may do meanwhile."""
    partition = passing(rows_per_second=4)
    for moved, renewed in ((0.0, 2), (0.0, 2), (0.4, 2), (0.1, 4), (0.4, 4), (5.0, 6), (0.0, 6)):
        clock.now += moved
        assert await partition._work() is None
        assert partition.renewed == renewed


async def test_until_then_it_sleeps(clock: Any) -> None:
    """It neither looks all the time nor oversleeps a batch."""
    partition = passing(rows_per_second=100)
    await partition._work()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await partition._something_to_do()
    assert loop.time() - began > 0.015
    partition.role.pace.take(10**6)
    loop.call_later(0.001, partition._wake.set)
    async with asyncio.timeout(5):
        await partition._something_to_do()
