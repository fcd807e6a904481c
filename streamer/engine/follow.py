"""Followers: a worker's own view of compacted topics, read from the start and kept up, without a group."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from streamer.engine.ending import stop_consumer
from streamer.engine.lanes import Lane

_POLL_MS = 200


async def partition_counts(consumer: AIOKafkaConsumer, topics: Sequence[str]) -> dict[str, int]:
    """How many partitions each topic has, 0 for one that is not there; asked of the broker, not of the cache."""
    cluster = await consumer._client.fetch_all_metadata()
    return {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}


class Follower:
    """Reads all partitions of a topic from the start, handing each partition's records over in log order.

    ``on_records(partition, records, position)`` runs on the event loop's thread, or in ``maths`` where that is given;
    ``position`` is the offset up to which the partition has been read.
    """

    def __init__(
        self,
        topic: str,
        options: Mapping[str, Any],
        on_records: Callable[[int, Sequence[Any], int], None],
        maths: Lane | None = None,
    ) -> None:
        self.topic, self._on_records, self._maths = topic, on_records, maths
        self._consumer = AIOKafkaConsumer(
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_POLL_MS,
            max_partition_fetch_bytes=4 << 20,
            **options,
        )
        self._tps: list[TopicPartition] = []
        self._task: asyncio.Task[None] | None = None
        self._handed: dict[TopicPartition, int] = {}
        self._polled = asyncio.Event()
        self.lag = 0

    @property
    def partitions(self) -> int:
        """How many partitions the topic has; known after `start`."""
        return len(self._tps)

    async def start(self, progress: Callable[[float], None] = lambda _: None) -> None:
        """Read to the present end, then follow in a task of its own.

        Raises:
            LookupError: the topic does not exist.
        """
        await self._consumer.start()
        count = (await partition_counts(self._consumer, [self.topic]))[self.topic]
        if not count:
            raise LookupError(self.topic)
        self._tps = [TopicPartition(self.topic, number) for number in range(count)]
        self._consumer.assign(self._tps)
        await self._consumer.seek_to_beginning(*self._tps)
        ends = await self._consumer.end_offsets(self._tps)
        total = sum(ends.values())
        while True:
            positions = {tp: await self._consumer.position(tp) for tp in self._tps}
            left = sum(max(ends[tp] - positions[tp], 0) for tp in self._tps)
            progress(1.0 - left / total if total else 1.0)
            if not left:
                break
            await self._poll()
        self._task = asyncio.create_task(self._follow(), name=f"follow-{self.topic}")

    async def _poll(self) -> None:
        fetched = await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=2_000)
        lag = 0
        for tp, records in fetched.items():
            work = partial(self._on_records, tp.partition, records, await self._consumer.position(tp))
            if self._maths is None:
                work()
                await asyncio.sleep(0)
            else:
                await self._maths.run(work)
        for tp in self._tps:
            end, position = self._consumer.last_stable_offset(tp), await self._consumer.position(tp)
            lag += max((end or 0) - position, 0)
            self._handed[tp] = position
        self.lag = lag
        self._polled.set()
        self._polled = asyncio.Event()

    async def to_end(self) -> None:
        """Return when all that is committed by now has been handed over; only once it follows."""
        ends = await self._consumer.end_offsets(self._tps)
        while any(self._handed.get(tp, 0) < end for tp, end in ends.items()):
            await self._polled.wait()

    async def _follow(self) -> None:
        while True:
            await self._poll()

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The following task; it ends only by a failure or by `stop`."""
        return self._task

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await stop_consumer(self._consumer)
