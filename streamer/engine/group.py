"""One role as a Faust app: the consumer group, its rebalances, and the agent that hands spans to partitions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import faust
import structlog
from faust.types import TP

from streamer.engine.assignments import Assignments, GroupSource
from streamer.engine.partition import Observer, Role
from streamer.engine.transport import POLL_SECONDS, MicroBatchConsumer, MicroBatchTransport

log = structlog.get_logger(__name__)


class Group:
    """A running role. `start`, then `failed` resolves if it can't go on, then `stop`."""

    def __init__(
        self,
        role: Role,
        observer: Observer,
        *,
        broker: str,
        settings: dict[str, Any],
    ) -> None:
        """``broker``: a Faust broker URL list; ``settings``: more Faust settings (credentials, session time-out)."""
        self.role = role
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self.app = _faust_app(role, broker, settings)
        self.assignments = Assignments(role, GroupSource(self.app), observer, self._fail)
        self.app.transport = _GatedTransport(self.app, self.assignments)
        self._define()

    def _define(self) -> None:
        assignments, app = self.assignments, self.app
        topic = app.topic(
            self.role.source,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer=_SPANS,
            acks=False,
        )

        @app.agent(topic, name=f"{self.role.group}.batches")
        async def batches(stream: faust.StreamT[Any]) -> AsyncIterator[None]:
            # The stream's interface lacks noack, which its only implementation has.
            async for event in cast(faust.Stream[Any], stream).noack().events():
                await assignments.offer(event.message.tp, event.message.value)
                yield

        @app.on_partitions_revoked.connect(weak=False)
        async def revoked(app: faust.App, revoked: set[TP], **_: Any) -> None:
            await assignments.revoked()

        @app.on_partitions_assigned.connect(weak=False)
        async def assigned(app: faust.App, assigned: set[TP], **_: Any) -> None:
            source = {TP(tp.topic, tp.partition) for tp in assigned if tp.topic == self.role.source}
            assignments.assigned(source, app.consumer_generation_id)

    async def start(self) -> None:
        """Join the group; partitions open as they are assigned."""
        self.role.store_root.mkdir(parents=True, exist_ok=True)
        self.app.finalize()
        await self.app.start()
        self._tasks = [
            asyncio.create_task(self.assignments.watch(), name=f"{self.role.name}-watch"),
            asyncio.create_task(self._wait_for_crash(), name=f"{self.role.name}-crash"),
        ]

    async def stop(self) -> None:
        """Finish transactions in flight, release the partitions, leave."""
        for task in self._tasks:
            task.cancel()
        await self.assignments.close()
        await self.app.stop()

    async def _fail(self, problem: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_result(problem)

    async def _wait_for_crash(self) -> None:
        await self.app.wait_until_stopped()
        await self._fail(self.app.crash_reason or RuntimeError(f"the {self.role.name} consumer stopped by itself"))


class _SpanCodec(faust.Codec):
    """Hands a span through Faust's decoding as it is."""

    def _loads(self, s: Any) -> Any:
        return s

    def _dumps(self, s: Any) -> Any:
        return s


_SPANS = _SpanCodec()


class _GatedTransport(MicroBatchTransport):
    """The micro-batch transport of one role: its consumer asks this role's assignments what to fetch."""

    def __init__(self, app: faust.App, gate: Assignments) -> None:
        super().__init__(app.conf.broker_consumer, app)
        self._gate = gate

    def create_consumer(self, callback: Any, **options: Any) -> MicroBatchConsumer:
        consumer = super().create_consumer(callback, **options)
        assert isinstance(consumer, MicroBatchConsumer)
        consumer.gate = self._gate
        consumer.most_records = self.role_bound
        return consumer

    @property
    def role_bound(self) -> int:
        """Most records a fetch of one partition hands over."""
        return self._gate.role.max_batch_events


def _faust_app(role: Role, broker: str, settings: dict[str, Any]) -> faust.App:
    app = faust.App(
        role.group,
        broker=broker,
        set_as_current=False,
        autodiscover=False,
        key_serializer="raw",
        value_serializer="raw",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        store="memory://",
        datadir=role.store_root / "faust",
        # One message is a whole span, so this is a bound in spans; the queue that matters is `Partition`'s own.
        stream_buffer_maxsize=4096,
        stream_wait_empty=True,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=4 << 20,
        broker_commit_interval=3600.0,
        broker_max_poll_interval=POLL_SECONDS,
        **settings,
    )
    # Faust waits a second for tables to be declared. There are none, and a restart must not take a second longer.
    cast(Any, app.tables).sleep = _at_once
    return app


async def _at_once(*_: Any, **__: Any) -> None:
    """Instead of a sleep that has nothing to wait for."""
