"""Micro-batches through Faust: one message a fetch and partition, its value the fetched records.

Stock Faust hands records over one by one, which costs tens of microseconds each. This transport yields one message
for all records of a fetch; everything else (group membership, rebalancing, the agent) stays Faust's own.

Four things differ from the stock consumer on purpose:

* every input is read with ``isolation_level=read_committed``;
* a fetch asks only for partitions that the `FetchGate` wants (ready, and below the bound of their own queue), because
  Faust's pause does not survive its own resume;
* each fetch carries its positions (where it started, where it ended), which the gap guard compares. Record offsets
  would not do: transaction markers take offsets too;
* a worker is alive while its event loop turns, whether or not there is anything that it may fetch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Protocol, cast

import aiokafka
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import ConsumerStoppedError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode import Service

from streamer.engine import lenient
from streamer.engine.ending import stop_consumer

POLL_SECONDS = 300.0
_TURN_SECONDS = 1.0
_IDLE_SECONDS = 0.02

lenient.install()


@dataclass(frozen=True, slots=True)
class Span:
    """The records of one fetch of one partition; ``start`` and ``end`` are fetch positions, end exclusive."""

    start: int
    end: int
    records: list[Any]


class FetchGate(Protocol):
    """Who decides what is fetched, and hears what was."""

    def wanted(self) -> AbstractSet[TP]:
        """The partitions whose records may be fetched now."""

    def fetched(self, tp: TP, span: Span) -> None:
        """A span left the fetcher; it may still be dropped on its way, and then must be fetched again."""


class MicroBatchThread(driver.AIOKafkaConsumerThread):
    """The consumer thread; reads committed records only and returns spans."""

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Both are read when the consumer starts, after this returns; Faust offers no setting for them.
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = 200
        return consumer

    def turns(self) -> None:
        """The worker's own loop turns. aiokafka has to be told, since nothing here goes through its `getmany`.

        Of a loop that has not turned for `POLL_SECONDS` its coordinator gives the partitions back, and joins the
        group again once the loop turns. Faust's own way, which counts fetches, never joins again: a consumer without
        partitions fetches nothing.
        """
        if self._consumer is not None:
            self._consumer._subscription._last_fetch_ended = time.monotonic()

    async def on_thread_stop(self) -> None:
        """As Faust's, but through `stop_consumer`: whoever stops this thread waits until all of this is done."""
        await super(driver.AIOKafkaConsumerThread, self).on_thread_stop()
        if self._consumer is not None:
            await stop_consumer(self._consumer)

    async def spans(self, wanted: AbstractSet[TP], timeout: float, most: int) -> dict[TP, Span]:
        """Spans that have arrived for the wanted partitions, waiting up to ``timeout`` seconds for the first."""
        result: dict[TP, Span] = await self.call_thread(self._spans, wanted, timeout, most)
        return result

    async def _spans(self, wanted: AbstractSet[TP], timeout: float, most: int) -> dict[TP, Span]:
        consumer = self._ensure_consumer()
        fetcher = consumer._fetcher
        if not self.consumer.flow_active:
            return {}
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        if fetcher._subscriptions.reassignment_in_progress:
            return {}
        found = self._drain(fetcher, wanted, most)
        if found:
            return found
        waiter = fetcher._create_fetch_waiter()
        done, pending = await asyncio.wait([waiter], timeout=timeout)
        for waiting in pending:
            waiting.cancel()
        for arrived in done:
            arrived.result()  # raises what the fetcher met, an authorization error for one
        return self._drain(fetcher, wanted, most)

    @staticmethod
    def _drain(fetcher: Any, wanted: AbstractSet[TP], most: int) -> dict[TP, Span]:
        """What lies ready, at most ``most`` records a partition; the rest stays for the next call."""
        found: dict[TP, Span] = {}
        for tp in list(fetcher._records):
            if tp not in wanted:
                if not fetcher._subscriptions.is_assigned(tp):
                    del fetcher._records[tp]
                continue
            result = fetcher._records[tp]
            if type(result) is not FetchResult:
                if found:
                    break
                del fetcher._records[tp]
                fetcher._notify(fetcher._wait_consume_future)
                result.check_raise()
            start = result._partition_records.next_fetch_offset if result.has_more() else None
            records = result.getall(most)
            state = result._assignment.state_value(tp) if result._assignment.active else None
            if not result.has_more():
                del fetcher._records[tp]
                fetcher._notify(fetcher._wait_consume_future)
            # A fetch of nothing but markers or aborted records has no records and still moves the position.
            if start is not None and state is not None and (records or state.position > start):
                found[TP(tp.topic, tp.partition)] = Span(start, state.position, records)
        return found


class MicroBatchConsumer(driver.Consumer):
    """Faust's consumer with `MicroBatchThread` and gated fetches."""

    gate: FetchGate
    most_records: int = 4096
    _thread: MicroBatchThread

    def _new_consumer_thread(self) -> MicroBatchThread:
        return MicroBatchThread(self, loop=self.loop, beacon=self.beacon)

    @Service.task
    async def _turn(self) -> None:
        while not self.should_stop:
            self._thread.turns()
            await asyncio.sleep(_TURN_SECONDS)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """One message a partition with a span as value."""
        if not self.flow_active:
            await self.wait(cast(Any, self.can_resume_flow))  # Faust's own annotation is narrower than its code
        wanted = self.gate.wanted()
        if not wanted:
            await asyncio.sleep(_IDLE_SECONDS)
            return
        # A short wait: a partition that becomes wanted meanwhile must not wait for the timeout of the others.
        spans = await self._thread.spans(wanted, min(timeout, 0.1), self.most_records)
        generation = self.app.consumer_generation_id
        for tp, span in spans.items():
            self.gate.fetched(tp, span)
        for tp, span in spans.items():
            # Records that may not be handed over now are dropped here; the gap guard has them fetched again.
            if self.should_stop or not self.flow_active or self.app.consumer_generation_id != generation:
                return
            yield tp, self._span_message(tp, span, generation)

    def _span_message(self, tp: TP, span: Span, generation: int) -> ConsumerMessage:
        value: Any = span  # Faust's codec hands it through as it is (`streamer.engine.group`)
        return ConsumerMessage(
            tp.topic, tp.partition, span.start, 0.0, 0, [], None, value, None, -1, -1, tp, generation_id=generation
        )


class MicroBatchTransport(driver.Transport):
    """Faust's aiokafka transport with the micro-batch consumer."""

    Consumer = MicroBatchConsumer
