"""The partitions of one role in this worker: who is fetched, what a rebalance does, what was missed.

Nothing here blocks Faust's rebalance callbacks beyond the transactions in flight: opening a partition (fence, restore)
runs in a task of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from collections.abc import Set as AbstractSet

import faust
import structlog
from aiokafka.structs import TopicPartition
from faust.types import TP

from streamer.engine.partition import Observer, Partition, Role
from streamer.engine.transport import MicroBatchConsumer, Span
from streamer.steps.effects import Step

log = structlog.get_logger(__name__)

_REVOKE_SECONDS = 4.0
_WATCH_SECONDS = 0.25
_RESUME_SECONDS = 20.0


class GroupSource:
    """The group's consumer as the partitions see it: every call runs in the consumer's own thread."""

    def __init__(self, app: faust.App) -> None:
        self._app = app

    @property
    def _consumer(self) -> MicroBatchConsumer:
        consumer = self._app.consumer
        assert isinstance(consumer, MicroBatchConsumer)
        return consumer

    async def committed(self, tp: TopicPartition) -> int | None:
        """The group's committed offset, read from the broker; None when there is none."""
        thread = self._consumer._thread
        offset: int | None = await thread.call_thread(thread._ensure_consumer().committed, tp)
        return offset

    async def seek(self, tp: TopicPartition, offset: int) -> None:
        """Fetch next from this offset; Faust's own read position follows, else it drops what it thinks it has seen."""
        thread, key = self._consumer._thread, TP(tp.topic, tp.partition)
        consumer = thread._ensure_consumer()

        async def seek() -> None:
            if tp in consumer.assignment():
                consumer.seek(tp, offset)

        await thread.call_thread(seek)
        self._consumer._read_offset[key] = offset or None

    def end(self, tp: TopicPartition) -> int | None:
        """The end of the committed records as of the last fetch; None before the first."""
        consumer = self._consumer._thread._consumer
        if consumer is None or tp not in consumer.assignment():
            return None
        offset: int | None = consumer.last_stable_offset(tp)
        return offset if offset is None or offset >= 0 else None

    async def ending(self, tp: TopicPartition) -> int:
        """The end of the committed records, asked of the broker."""
        thread = self._consumer._thread
        offsets = await thread.call_thread(thread._ensure_consumer().end_offsets, [tp])
        return int(offsets[tp])

    async def beginning(self, tp: TopicPartition) -> int:
        """The first offset that the log still has."""
        thread = self._consumer._thread
        offsets = await thread.call_thread(thread._ensure_consumer().beginning_offsets, [tp])
        return int(offsets[tp])


class Assignments:
    """The fetch gate of a role and the owner of its partitions."""

    def __init__(
        self,
        role: Role,
        source: GroupSource,
        observer: Observer,
        fail: Callable[[BaseException], Awaitable[None]],
    ) -> None:
        self.role = role
        self.partitions: dict[TP, Partition] = {}
        self._source, self._observer, self._fail = source, observer, fail
        self._step = role.step
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._generation = -1

    # --- the fetch gate -----------------------------------------------------------------------------------------

    def wanted(self) -> AbstractSet[TP]:
        """The partitions that are ready and below the bound of their queue."""
        return {tp for tp, partition in self.partitions.items() if partition.wants()}

    def fetched(self, tp: TP, span: Span) -> None:
        """A span left the fetcher."""
        partition = self.partitions.get(tp)
        if partition is not None:
            partition.fetched(span)

    # --- what the agent and the signals call --------------------------------------------------------------------

    async def offer(self, tp: TP, span: Span) -> None:
        """A span came through the stream."""
        partition = self.partitions.get(tp)
        if partition is not None:
            await partition.offer(span)

    async def revoked(self) -> None:
        """A rebalance begins: take nothing more and let transactions in flight end."""
        await asyncio.gather(*(partition.pause(_REVOKE_SECONDS) for partition in self.partitions.values()))

    def assigned(self, tps: AbstractSet[TP], generation: int) -> None:
        """A rebalance ended; the work is done in a task, in the order in which rebalances end."""
        log.info(
            "assigned",
            role=self.role.name,
            partitions=sorted(tp.partition for tp in tps),
            generation=generation,
        )
        task = asyncio.create_task(self._settle(set(tps), generation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, tps: set[TP], generation: int) -> None:
        async with self._lock:
            # After a missed generation somebody else may have owned a partition in between: open it anew.
            consecutive, self._generation = generation == self._generation + 1, generation
            lost = [tp for tp, held in self.partitions.items() if not (tp in tps and consecutive and held.ready)]
            await asyncio.gather(*(self.partitions.pop(tp).release() for tp in lost))
            for tp in sorted(tps):
                if tp in self.partitions:
                    await self._resume(tp)
                else:
                    await self._open(tp)

    async def _resume(self, tp: TP) -> None:
        """Keep a partition; one that does not come to rest (a full disk) is let go and opened anew."""
        try:
            async with asyncio.timeout(_RESUME_SECONDS):
                await self.partitions[tp].resume()
        except TimeoutError:
            log.warning("partition_did_not_rest", tp=str(tp))
            await self.partitions.pop(tp).release()
            await self._open(tp)

    async def _open(self, tp: TP) -> None:
        partition = Partition(
            TopicPartition(tp.topic, tp.partition), self.role, self._source, self._observer, self._fail, self._step
        )
        self.partitions[tp] = partition
        partition.open()

    def switch(self, step: Step) -> None:
        """Serve another generation: each partition cuts over at the end of its batch in flight."""
        self._step = step
        for partition in self.partitions.values():
            partition.switch(step)

    def holds(self, number: int) -> bool:
        """Is this worker processing the partition of this number?"""
        return any(tp.partition == number and held.ready for tp, held in self.partitions.items())

    def at(self, generation: int) -> bool:
        """Has every partition held here cut over to this generation?"""
        return all(partition.at == generation for partition in self.partitions.values())

    def lags(self) -> Iterator[tuple[str, int, int]]:
        """(topic, partition, records not yet processed) of every ready partition whose end is known."""
        for tp, partition in self.partitions.items():
            end = self._source.end(partition.tp) if partition.ready else None
            if end is not None:
                yield tp.topic, tp.partition, max(end - partition.position, 0)

    def rows(self) -> int:
        """About how many rows the stores hold."""
        return sum(partition.rows for partition in self.partitions.values())

    async def watch(self) -> None:
        """For ever: seek back where a fetched span never came, and say so where a rebalance does not end."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            now = time.monotonic()
            if late := [tp.partition for tp, held in self.partitions.items() if held.paused_long(now)]:
                log.error("rebalance_does_not_end", role=self.role.name, partitions=sorted(late))
            for partition in list(self.partitions.values()):
                if partition.missed(now):
                    await partition.seek_back()

    async def close(self) -> None:
        """Let transactions in flight end, then release everything."""
        await self.revoked()
        for task in self._tasks:
            task.cancel()
        async with self._lock:
            held, self.partitions = self.partitions, {}
            await asyncio.gather(*(partition.release() for partition in held.values()))
