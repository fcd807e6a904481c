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
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

import faust
import structlog
import uvloop
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError, KafkaError
from threadpoolctl import threadpool_limits

from streamer.engine import lenient
from streamer.engine.ask import asking
from streamer.engine.changelog import ChangelogMismatch
from streamer.engine.ending import stop_consumer
from streamer.engine.follow import partition_counts
from streamer.engine.group import Group
from streamer.engine.lanes import Lanes
from streamer.engine.models import ActiveModel, Models
from streamer.engine.partition import Role
from streamer.engine.pulse import feel
from streamer.engine.renewal import RenewalPace
from streamer.engine.store import StoreMemory
from streamer.errors import BrokerError, DataError, FactorsError
from streamer.generations import Generations
from streamer.serving import Loader, Serving
from streamer.settings import Settings, aiokafka_options
from streamer.steps.compiled import warm
from streamer.steps.effects import Step
from streamer.steps.horizon import Horizon
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
        self._pace = RenewalPace(settings.engine.renew_per_second)

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
        horizon = Horizon()
        judged = self._telemetry.quality is not None
        loader = Loader(self._settings, self._client, self._lanes.maths, self._partitions, horizon, judged)
        generations = Generations(models, loader, horizon, self._roles, self._telemetry)
        stack.push_async_callback(generations.stop)
        serving = await generations.first(active)
        if not await self._compile(serving):
            return
        memory = StoreMemory.of(self._settings.state.cache_mb)
        groups = []
        for name, step in generations.steps().items():
            group = self._group(name, serving, step, memory, generations.newest)
            groups.append(await stack.enter_async_context(_running(group)))
            self._telemetry.watch(group.assignments.lags, group.assignments.rows)
        _settle_garbage()
        await stack.enter_async_context(self._feeling_the_broker())
        await stack.enter_async_context(self._asking_for_retrains())
        await self._serve(models, generations, groups)

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

    async def _compile(self, serving: Serving) -> bool:
        """Have the compiled user step ready before anything is consumed; false if the worker is stopped meanwhile."""
        # No other feedback can follow: `Loader` refuses it.
        rated = serving.active.manifest.policy.feedback == "explicit"
        if "users" not in self._roles or self._settings.engine.solver != "cg" or rated:
            return True
        self._telemetry.waiting("compiling the user step, which takes up to a minute the first time")
        done = await self._unless_stopped(asyncio.to_thread(warm))
        if done:
            self._telemetry.health.model(serving.version)
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

    @asynccontextmanager
    async def _asking_for_retrains(self) -> AsyncIterator[None]:
        """Send what the judge wishes to the control topic, where that is wanted."""
        if self._telemetry.quality is None or not self._settings.quality.ask_for_retrain:
            yield
            return
        async with asking(self._settings.topic("control"), self._client) as ask:
            self._telemetry.quality.ask = ask
            yield

    def _group(
        self, name: str, serving: Serving, step: Step, memory: StoreMemory, newest: Callable[[], Awaitable[None]]
    ) -> Group:
        settings, topic, engine = self._settings, self._settings.topic, self._settings.engine
        group = f"{engine.app_id}-{name}"
        role = Role(
            name=name,
            group=group,
            source=topic(_SOURCES[name]),
            changelog=topic(_CHANGELOGS[name]),
            step=step,
            lanes=self._lanes,
            store_root=settings.state.dir / group,
            memory=memory,
            client=self._client,
            transaction_timeout_ms=engine.transaction_timeout_ms,
            max_batch_events=engine.max_batch_events,
            max_pending_events=engine.max_pending_events,
            first_offsets=_first_offsets(serving.active) if name == "users" else {},
            pace=self._pace,
            newest=newest,
            fenced_pause_seconds=engine.session_timeout_ms / 2000,
        )
        servers = self._client["bootstrap_servers"]
        return Group(
            role,
            self._telemetry,
            broker=";".join(f"kafka://{server}" for server in servers),
            settings=_faust_settings(settings, self._client),
        )

    # --- serve --------------------------------------------------------------------------------------------------

    async def _serve(self, models: Models, generations: Generations, groups: list[Group]) -> None:
        """Until a signal, or something that can't go on."""
        waits: dict[asyncio.Future[Any], str] = {asyncio.ensure_future(self._stop.wait()): "stop"}
        waits |= {group.failed: f"the {group.role.name} role" for group in groups}
        waits |= {follower.task: f"following {follower.topic}" for follower in models.followers if follower.task}
        waits[asyncio.ensure_future(generations.follow(groups))] = "following the model"
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        self._telemetry.stopping()
        for future in done:
            if waits[future] == "stop":
                log.info("stopping")
                return
            problem = future.exception() or future.result()
            log.error("stopping", reason=waits[future], problem=str(problem) or repr(problem))
            raise _as_factors_error(waits[future], problem)

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
