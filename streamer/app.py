"""The worker: everything put together, started in order, and stopped in the reverse order.

    http -> model -> item replica and catalogue -> consumer groups

Nothing is consumed before a generation is active and its item vectors are loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

import faust
import structlog
import uvloop
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError, KafkaError
from threadpoolctl import threadpool_limits

from streamer.engine import lenient
from streamer.engine.changelog import ChangelogMismatch
from streamer.engine.ending import stop_consumer
from streamer.engine.follow import Follower, partition_counts
from streamer.engine.group import Group
from streamer.engine.lanes import Lanes
from streamer.engine.models import ActiveModel, Models
from streamer.engine.partition import Role
from streamer.engine.pulse import feel
from streamer.engine.replica import ItemReplica
from streamer.engine.store import StoreMemory
from streamer.errors import BrokerError, DataError, FactorsError
from streamer.events.read import Reader
from streamer.settings import Settings, aiokafka_options
from streamer.steps.compiled import warm
from streamer.steps.item import ItemStep, ItemTopics
from streamer.steps.items import Items
from streamer.steps.user import UserStep, UserTopics
from streamer.telemetry.observer import Telemetry

log = structlog.get_logger(__name__)

_STOP_SECONDS = 20.0
"""Less than the 30 s after which Kubernetes, or the 90 s after which systemd, would kill."""

RoleName = Literal["users", "items", "all"]
_SOURCES = {"users": "interactions", "items": "item-signals"}
_CHANGELOGS = {"users": "user-state", "items": "item-state"}
_NEEDED = (
    "interactions",
    "item-signals",
    "user-state",
    "item-state",
    "user-factors",
    "item-factors",
    "dead-letters",
    "items",
    "models",
    "control",
)


def run_worker(settings: Settings, role: RoleName) -> None:
    """Run until SIGINT or SIGTERM.

    Raises:
        FactorsError: what stopped it, in one sentence, with its exit code.
    """
    # One thread: the worker's parallelism is its partitions, and a pool of BLAS threads only fights with them.
    with threadpool_limits(limits=1), asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(Worker(settings, role).run())
    log.info("stopped")


def _new_loop() -> asyncio.AbstractEventLoop:
    # The consumer threads make their loops through the policy.
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    return uvloop.new_event_loop()


class Worker:
    """One process's share of one or both roles."""

    def __init__(self, settings: Settings, role: RoleName) -> None:
        self._settings = settings
        self._roles = ("users", "items") if role == "all" else (role,)
        self._client = aiokafka_options(settings)
        lenient.SALVAGED.update((settings.topic("interactions"), settings.topic("items")))
        self._telemetry = Telemetry(settings, self._roles)
        self._stop = asyncio.Event()
        self._model: ActiveModel | None = None

    async def run(self) -> None:
        """Start, serve, stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            # Not the loop's own handlers: a loop that stands still would never call them.
            signal.signal(number, lambda *_: self._told_to_stop(loop))
        async with AsyncExitStack() as stack:
            try:
                await self._run(stack)
            except BaseException:
                # What is started ends in the reverse order; that must not take for ever either.
                _end_in_time()
                raise

    async def _run(self, stack: AsyncExitStack) -> None:
        self._lanes = Lanes(self._settings.engine.concurrent_batches)
        stack.callback(self._lanes.close)
        await stack.enter_async_context(self._telemetry.serving())
        await self._check_topics()
        models = await stack.enter_async_context(self._following_models())
        active = await self._wait_for_model(models)
        if active is None:
            return
        self._model = active
        items, followers = await stack.enter_async_context(self._following_items(active))
        if not await self._compile():
            return
        memory = StoreMemory.of(self._settings.state.cache_mb)
        groups = []
        for name in self._roles:
            group = self._group(name, active, items, memory)
            groups.append(await stack.enter_async_context(_running(group)))
            self._telemetry.watch(group.assignments.lags, group.assignments.rows)
        _settle_garbage()
        await stack.enter_async_context(self._feeling_the_broker())
        await self._serve(models, active, [*followers, *models.followers], groups)

    def _told_to_stop(self, loop: asyncio.AbstractEventLoop) -> None:
        _end_in_time()
        loop.call_soon_threadsafe(self._stop.set)

    # --- start --------------------------------------------------------------------------------------------------

    async def _check_topics(self) -> None:
        """Every topic is there, and those of one group have as many partitions as each other."""
        consumer = AIOKafkaConsumer(**self._client)
        try:
            await consumer.start()
            names = [self._settings.topic(name) for name in _NEEDED]
            counts = await partition_counts(consumer, names)
        except KafkaConnectionError as problem:
            servers = self._settings.kafka.bootstrap_servers
            raise BrokerError(
                f"no broker answers at {servers}; start it, or set kafka.bootstrap_servers "
                "(FACTORS_KAFKA__BOOTSTRAP_SERVERS)"
            ) from problem
        except KafkaError as problem:
            raise BrokerError(f"the broker refuses: {problem}") from problem
        finally:
            await stop_consumer(consumer)
        missing = [name for name in names if not counts[name]]
        if missing:
            raise BrokerError(f"missing topics: {', '.join(missing)}; run `streamer topics create`")
        for first, *others in (
            ("interactions", "user-state", "user-factors", "dead-letters"),
            ("item-signals", "item-state", "item-factors"),
        ):
            count = counts[self._settings.topic(first)]
            for other in others:
                if counts[self._settings.topic(other)] != count:
                    raise BrokerError(
                        f"{self._settings.topic(other)} has {counts[self._settings.topic(other)]} partitions and "
                        f"{self._settings.topic(first)} has {count}: they must have the same number; "
                        "`streamer topics check` lists every difference"
                    )
        self._partitions = {name: counts[self._settings.topic(name)] for name in _NEEDED}

    @asynccontextmanager
    async def _following_models(self) -> AsyncIterator[Models]:
        models = Models(self._settings.topic("models"), self._settings.topic("control"), self._client)
        try:
            await models.start()
            yield models
        finally:
            await models.stop()

    async def _wait_for_model(self, models: Models) -> ActiveModel | None:
        """The active generation; waits for one, and gives None if the worker is stopped meanwhile."""
        while (active := models.now()) is None:
            self._telemetry.waiting("no model is active: run `python -m bootstrap run`")
            log.warning("waiting_for_model", topic=self._settings.topic("control"))
            if not await self._unless_stopped(models.changed()):
                return None
        return active

    @asynccontextmanager
    async def _following_items(self, active: ActiveModel) -> AsyncIterator[tuple[Items, list[Follower]]]:
        manifest = active.manifest
        items = Items(
            dimension=manifest.width,
            ridge=manifest.policy.ridge,
            item_key=bytes.fromhex(manifest.item_key),
            partitions=self._partitions["item-factors"],
        )
        replica = ItemReplica(items, manifest.model_version)
        followers = [
            Follower(active.item_topic, self._client, replica.factors, self._lanes.maths),
            Follower(self._settings.topic("items"), self._client, replica.catalogue, self._lanes.maths),
        ]
        try:
            try:
                for follower in followers:
                    await follower.start(self._telemetry.loading_items)
            except LookupError as problem:
                raise BrokerError(f"the topic {problem} of the active model does not exist") from problem
            if not items.space.size:
                raise DataError(
                    f"{active.item_topic} holds no item vector of the active model {manifest.model_version}; "
                    "publish it again with `python -m bootstrap publish`"
                )
            await self._lanes.maths.run(items.settle)
            log.info("items_loaded", items=items.space.size, model_version=manifest.model_version)
            self._telemetry.model(manifest, items, lambda: followers[0].lag)
            yield items, followers
        finally:
            for follower in followers:
                await follower.stop()

    async def _compile(self) -> bool:
        """Have the compiled user step ready before anything is consumed; false if the worker is stopped meanwhile."""
        rated = self._model is not None and self._model.manifest.policy.feedback == "explicit"
        if "users" not in self._roles or self._settings.engine.solver != "cg" or rated:
            return True
        self._telemetry.waiting("compiling the user step, which takes up to a minute the first time")
        done = await self._unless_stopped(asyncio.to_thread(warm))
        if done and self._model is not None:
            self._telemetry.health.model(self._model.manifest.model_version)
        return done

    @asynccontextmanager
    async def _feeling_the_broker(self) -> AsyncIterator[None]:
        """Have the readiness say when no broker answers."""
        pulse = asyncio.create_task(
            feel(self._settings.topic("interactions"), self._client, self._telemetry.broker), name="pulse"
        )
        try:
            yield
        finally:
            pulse.cancel()
            await asyncio.gather(pulse, return_exceptions=True)

    def _group(self, name: str, active: ActiveModel, items: Items, memory: StoreMemory) -> Group:
        settings, topic, engine = self._settings, self._settings.topic, self._settings.engine
        group = f"{engine.app_id}-{name}"
        role = Role(
            name=name,
            group=group,
            source=topic(_SOURCES[name]),
            changelog=topic(_CHANGELOGS[name]),
            step=self._user_step(active, items) if name == "users" else self._item_step(active, items),
            lanes=self._lanes,
            store_root=settings.state.dir / group,
            memory=memory,
            client=self._client,
            transaction_timeout_ms=engine.transaction_timeout_ms,
            max_batch_events=engine.max_batch_events,
            max_pending_events=engine.max_pending_events,
            first_offsets=_first_offsets(active) if name == "users" else {},
            fenced_pause_seconds=engine.session_timeout_ms / 2000,
        )
        servers = self._client["bootstrap_servers"]
        return Group(
            role,
            self._telemetry,
            broker=";".join(f"kafka://{server}" for server in servers),
            settings=_faust_settings(settings, self._client),
        )

    def _user_step(self, active: ActiveModel, items: Items) -> UserStep:
        settings, topic = self._settings, self._settings.topic
        return UserStep(
            active.manifest,
            items,
            UserTopics(
                topic("interactions"),
                topic("user-factors"),
                topic("item-signals"),
                topic("dead-letters"),
                self._partitions["interactions"],
            ),
            Reader(
                active.manifest.policy,
                tenant=settings.events.tenant,
                max_bytes=settings.events.max_bytes,
                invalid_items=items.invalid,
            ),
            solver=settings.engine.solver,
            tolerance=settings.engine.tolerance,
            encoding=settings.factors.encoding,
            source=f"{settings.engine.app_id}-users",
        )

    def _item_step(self, active: ActiveModel, items: Items) -> ItemStep:
        return ItemStep(
            active.manifest,
            items,
            ItemTopics(self._settings.topic("item-signals"), active.item_topic),
            encoding=self._settings.factors.encoding,
            source=f"{self._settings.engine.app_id}-items",
        )

    # --- serve --------------------------------------------------------------------------------------------------

    async def _serve(
        self, models: Models, active: ActiveModel, followers: Iterable[Follower], groups: list[Group]
    ) -> None:
        """Until a signal, or something that can't go on."""
        waits: dict[asyncio.Future[Any], str] = {asyncio.ensure_future(self._stop.wait()): "stop"}
        waits |= {group.failed: f"the {group.role.name} role" for group in groups}
        waits |= {follower.task: f"following {follower.topic}" for follower in followers if follower.task}
        waits[asyncio.ensure_future(self._watch_model(models, active))] = "following the model"
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        self._telemetry.stopping()
        for future in done:
            if waits[future] == "stop":
                log.info("stopping")
                return
            problem = future.exception() or future.result()
            log.error("stopping", reason=waits[future], problem=str(problem) or repr(problem))
            raise _as_factors_error(waits[future], problem)

    async def _watch_model(self, models: Models, active: ActiveModel) -> None:
        """Say when another generation becomes active; workers take it up at their next start."""
        announced = active.manifest.model_version
        while True:
            await models.changed()
            now = models.now()
            if now is not None and now.manifest.model_version != announced:
                announced = now.manifest.model_version
                log.warning("another_model_is_active", serving=active.manifest.model_version, active=announced)

    async def _unless_stopped(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Await ``work``; false if the worker is told to stop first."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        for future in (task, stop):
            future.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await future
        return not self._stop.is_set()


def _end_in_time() -> None:
    """Bound the time that stopping takes, whatever a client or a library waits for.

    An end without a goodbye costs nothing but the next start's replay: that is what a crash does, too.
    """

    def end() -> None:
        # Whoever reads the log may be what everything waits for.
        _later(1.0, lambda: os._exit(BrokerError.exit_code))
        log.error("stop_cut_short", seconds=_STOP_SECONDS)
        os._exit(BrokerError.exit_code)

    _later(_STOP_SECONDS, end)


def _later(seconds: float, what: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, what)
    timer.daemon = True
    timer.start()


def _settle_garbage() -> None:
    """Keep what start-up made out of every later collection, and collect less often.

    A batch makes tens of thousands of short-lived objects and next to no cycles; the default thresholds would have
    the collector walk all of them dozens of times a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@asynccontextmanager
async def _running(group: Group) -> AsyncIterator[Group]:
    try:
        await group.start()
        yield group
    finally:
        await group.stop()


def _first_offsets(active: ActiveModel) -> dict[int, int]:
    """Where a user partition starts that no worker ever committed: after the training data."""
    return {int(number): offset for number, offset in active.manifest.cut_offsets.items()}


def _faust_settings(settings: Settings, client: dict[str, Any]) -> dict[str, Any]:
    engine = settings.engine
    session = engine.session_timeout_ms / 1000
    chosen: dict[str, Any] = {
        "broker_session_timeout": session,
        "broker_heartbeat_interval": session / 4,
        "broker_request_timeout": max(30.0, session + 1),
        "broker_rebalance_timeout": 60.0,
        "consumer_group_instance_id": engine.instance_id,
    }
    context = client.get("ssl_context")
    if "sasl_mechanism" in client:
        chosen["broker_credentials"] = faust.SASLCredentials(
            username=client["sasl_plain_username"],
            password=client["sasl_plain_password"],
            mechanism=client["sasl_mechanism"],
            ssl_context=context,
        )
    elif context is not None:
        chosen["broker_credentials"] = faust.SSLCredentials(context)
    return chosen


def _as_factors_error(what: str, problem: BaseException) -> FactorsError:
    if isinstance(problem, FactorsError):
        return problem
    if isinstance(problem, ChangelogMismatch):
        return DataError(str(problem))
    if isinstance(problem, KafkaError):
        return BrokerError(f"{what} stopped: {problem}")
    return FactorsError(f"{what} stopped: {problem!r}")
