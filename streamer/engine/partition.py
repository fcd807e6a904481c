"""One source partition from assignment to release: fence, restore, then batch after batch.

Opening, in this order: fence (a former owner can do nothing more), *then* read the committed offset (before the fence
it may be old), open the store, replay the changelog, check that both agree, seek, ready.

A batch: read records, get rows, apply the step (pure), commit the transaction, write the rows to the store. Records
that arrive meanwhile wait and make the next batch, so batches are as small as latency allows and as large as load
demands, without a timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError
from aiokafka.structs import TopicPartition

from schemas.cuts import GENERATION_KEY, Cut, encode_cut
from schemas.layouts import MARKER_KEY, encode_marker
from streamer.engine.changelog import ChangelogMismatch, StoreAhead, replay
from streamer.engine.lanes import Lanes
from streamer.engine.renewal import Renewal, RenewalPace
from streamer.engine.store import Store, StoreDamaged, StoreMemory, StoreUnwritable, quarantine, wipe
from streamer.engine.transaction import Fenced, OutcomeUnknown, PartitionProducer, TransactionFailed
from streamer.engine.transport import Span
from streamer.steps.effects import Effects, Step, Target

log = structlog.get_logger(__name__)
Result = TypeVar("Result")

_TRIES = 8
_UNREACHABLE = (KafkaConnectionError, KafkaTimeoutError, TimeoutError)
_RETRY_SECONDS = 0.2
_STORE_RETRY_SECONDS = 1.0
_SAME_GAPS = 3
_DAMAGES = 3
_AHEAD_SECONDS = 10.0
_AHEAD_LOOK_SECONDS = 0.1
_LONG_PAUSE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Role:
    """What distinguishes users from items for the engine; ``step``: of the generation that is served at the start.

    newest: returns when this worker serves what is announced by now, or has refused it.
    """

    name: str
    group: str
    source: str
    changelog: str
    step: Step
    lanes: Lanes
    store_root: Path
    memory: StoreMemory
    client: Mapping[str, Any]
    transaction_timeout_ms: int
    max_batch_events: int
    max_pending_events: int
    first_offsets: Mapping[int, int]
    pace: RenewalPace
    newest: Callable[[], Awaitable[None]]
    fenced_pause_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Committed:
    """A batch that has happened, and is not in the store yet; seconds by stage so far."""

    effects: Effects
    changelog_end: int
    seconds: dict[str, float]
    cut: Cut | None = None


class Source(Protocol):
    """What a partition asks of the group's consumer."""

    async def committed(self, tp: TopicPartition) -> int | None:
        """The group's committed offset, read from the broker."""

    async def seek(self, tp: TopicPartition, offset: int) -> None:
        """Fetch next from this offset."""

    async def beginning(self, tp: TopicPartition) -> int:
        """The first offset that the log still has."""

    async def ending(self, tp: TopicPartition) -> int:
        """The end of the committed records."""


class Observer(Protocol):
    """Who hears what happens: metrics and health."""

    def state(self, role: str, partition: int, state: str, share: float = 0.0) -> None:
        """waiting, fencing, restoring (with the share done), ready, paused or released."""

    def rebuilt(self, reason: str) -> None:
        """A store was wiped or set aside and comes back from the changelog."""

    def transaction(self, role: str, result: str) -> None:
        """committed, aborted or fenced."""

    def batch(self, role: str, records: list[Any], effects: Effects, seconds: Mapping[str, float]) -> None:
        """A batch is committed and stored; seconds by stage."""

    def renewed(self, role: str, rows: int) -> None:
        """Rows were brought into the generation that is served."""

    def settled(self, role: str, partition: int, *, settled: bool) -> None:
        """Are all rows of a partition of the generation that it is at?"""


class _Worn(Exception):
    """The producer is to be made anew."""


class _Ahead(Exception):
    """A batch belongs to a generation that is announced and not loaded yet."""


class Partition:
    """See the module docstring. Lives on the event loop's thread; nothing here is shared with another."""

    def __init__(
        self,
        tp: TopicPartition,
        role: Role,
        source: Source,
        observer: Observer,
        fail: Callable[[BaseException], Awaitable[None]],
        step: Step | None = None,
    ) -> None:
        """``step``: of the generation that is served by now, where that is not the role's."""
        self.tp, self.role = tp, role
        self._step = step or role.step
        self._to: Step | None = None
        self._cut_due = False
        self._renewal: Renewal | None = None
        self._ahead_since = 0.0
        self.ready = self.paused = self.in_flight = False
        self._paused_at, self._said_paused = 0.0, False
        self.expected: int | None = None
        self.delivered: int | None = None
        self.delivered_at = 0.0
        self._source, self._observer, self._fail = source, observer, fail
        self._pending: deque[Span] = deque()
        self._pending_records = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._unpaused = asyncio.Event()
        self._next = 0
        self._committed = False
        self._most = role.max_batch_events
        self._gaps: tuple[int, int] = (-1, 0)
        self._producer: PartitionProducer | None = None
        self._store: Store | None = None
        self._task: asyncio.Task[None] | None = None
        self._check: asyncio.Task[None] | None = None

    @property
    def position(self) -> int:
        """The source offset after the last committed batch."""
        return self._next

    @property
    def at(self) -> int | None:
        """The generation that this partition has cut over to; None while it is not open or about to cut over."""
        return self._step.generation if self.ready and not self._cut_due and self._to is None else None

    @property
    def rows(self) -> int:
        """About how many rows the store has."""
        return self._store.rows if self._store is not None else 0

    # --- what the fetch gate and the agent call -----------------------------------------------------------------

    def wants(self) -> bool:
        """May records of this partition be fetched now?"""
        return self.ready and not self.paused and self._pending_records < self.role.max_pending_events

    def _may_work(self) -> bool:
        """Does no rebalance stand in the way?"""
        return not self.paused

    def switch(self, step: Step) -> None:
        """Serve another generation from the end of the batch in flight on."""
        self._to = step
        self._wake.set()

    def fetched(self, span: Span) -> None:
        """A span left the fetcher; if it never reaches `offer`, `missed` says so."""
        self.delivered, self.delivered_at = span.end, time.monotonic()

    async def offer(self, span: Span) -> None:
        """Queue a span if it starts where the last one ended; on a gap seek back, never skip."""
        if not self.ready or self.paused:
            return
        if span.start != self.expected:
            await self.seek_back(span.start)
            return
        self._pending.append(span)
        self._pending_records += len(span.records)
        self.expected = span.end
        self._wake.set()

    def missed(self, now: float) -> bool:
        """A span was fetched, never came, and nothing after it showed the gap."""
        return (
            self.ready
            and not self.paused
            and self.delivered is not None
            and self.delivered != self.expected
            and now - self.delivered_at > 1.0
        )

    async def seek_back(self, found: int | None = None) -> None:
        """Fetch again from the end of what is queued."""
        assert self.expected is not None
        same = self._gaps[1] + 1 if self._gaps[0] == self.expected else 1
        self._gaps = (self.expected, same)
        log.warning("fetch_gap", tp=str(self.tp), expected=self.expected, found=found)
        if same >= _SAME_GAPS:
            first = await self._source.beginning(self.tp)
            if first > self.expected:
                # Nothing can bring these back. Saying so loudly and going on keeps the rest fresh.
                log.error("records_deleted_before_processing", tp=str(self.tp), first=self.expected, until=first)
                self.expected = first
            await self._check_or_fail(self.expected)
        self.delivered = self.expected
        await self._source.seek(self.tp, self.expected)

    # --- assignment ---------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start opening, then processing, in a task of its own."""
        self._unpause()
        self._task = asyncio.create_task(self._guarded(), name=f"{self.tp.topic}-{self.tp.partition}")

    async def pause(self, seconds: float) -> None:
        """Take no more records and wait for the transaction in flight, at most ``seconds``."""
        self.paused = True
        self._paused_at = time.monotonic()
        self._unpaused.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            log.warning("transaction_still_open_at_revocation", tp=str(self.tp))

    async def resume(self) -> None:
        """Keep the partition over a rebalance: own offset, own store; what was queued is fetched again."""
        # A transaction may have outlived the patience of `pause`; only its end says where to go on.
        await self._idle.wait()
        self._drop_pending()
        self.expected = self.delivered = self._next
        await self._source.seek(self.tp, self._next)
        self._unpause()

    def paused_long(self, now: float) -> bool:
        """Has a rebalance kept this partition from working for longer than any should? Says so to operators, once."""
        if not self.paused or self._said_paused or now - self._paused_at < _LONG_PAUSE_SECONDS:
            return False
        self._said_paused = True
        self._observer.state(self.role.name, self.tp.partition, "paused")
        return True

    def _unpause(self) -> None:
        if self._said_paused and self.ready:
            self._observer.state(self.role.name, self.tp.partition, "ready")
        self.paused = self._said_paused = False
        self._unpaused.set()
        self._wake.set()

    async def release(self) -> None:
        """Let go: stop the task, the producer and the store."""
        self.ready = False
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._shut()
        self._observer.state(self.role.name, self.tp.partition, "released")

    async def _shut(self) -> None:
        self.ready = False
        self._drop_pending()
        if self._check is not None:
            self._check.cancel()
        self._renewal = None
        producer, self._producer = self._producer, None
        store, self._store = self._store, None
        if producer is not None:
            await producer.close()
        if store is not None:
            store.close()

    def _drop_pending(self) -> None:
        self._pending.clear()
        self._pending_records = 0
        self._wake.clear()

    # --- the life of a partition --------------------------------------------------------------------------------

    async def _guarded(self) -> None:
        try:
            await self._live()
        except asyncio.CancelledError:
            raise
        except Exception as problem:  # noqa: BLE001 - whatever it is, the worker must hear of it and stop
            self.ready = False
            self._idle.set()
            log.error("partition_failed", tp=str(self.tp), problem=str(problem) or repr(problem))
            await self._fail(problem)

    async def _live(self) -> None:  # noqa: C901 - each way in which a partition comes back, in one place
        """Open and process; after a fence, and while the partition is still ours, open anew."""
        fenced, failures, damaged, mismatched = 0, 0, 0, False
        while True:
            try:
                await self._open()
                mismatched = False
                await self._process()
            except ChangelogMismatch as problem:
                # Frozen between reading the offset and replaying, another owner may have gone on: look once more.
                if mismatched:
                    raise
                mismatched = True
                log.warning("changelog_mismatch", tp=str(self.tp), problem=str(problem))
                pause = self.role.fenced_pause_seconds
            except StoreDamaged as problem:
                # Met in a block that opening did not read. The rows come back from the changelog.
                damaged += 1
                if damaged >= _DAMAGES:
                    raise
                await self._shut()
                self._rebuild("damaged", problem)
                pause = 0.0
            except TransactionFailed as problem:
                # The producer's sequence numbers ran ahead of the broker's: only a new one can go on. And smaller
                # batches find a record that is refused for itself.
                failures = 1 if self._committed else failures + 1
                self._observer.transaction(self.role.name, "aborted")
                self._most = max(self._most // 8, 1)
                log.warning("transaction_aborted", tp=str(self.tp), problem=str(problem), failures=failures)
                if failures >= _TRIES:
                    raise
                pause = _RETRY_SECONDS * failures
            except asyncio.CancelledError:
                # Only `release` cancels this task; anything else is a library's own cancellation that got out.
                if _asked_to_end():
                    raise
                log.warning("stray_cancellation", tp=str(self.tp))
                pause = _RETRY_SECONDS
            except _Worn:
                log.info("producer_renewed", tp=str(self.tp))
                pause = 0.0
            except _UNREACHABLE as problem:
                # A broker's outage is nobody's fault here: what is committed stays, the rest is read again.
                log.warning("broker_unreachable", tp=str(self.tp), problem=str(problem))
                pause = _RETRY_SECONDS * 5
            except OutcomeUnknown as problem:
                self._observer.transaction(self.role.name, "fenced")
                log.warning("outcome_unknown", tp=str(self.tp), problem=str(problem))
                pause = _RETRY_SECONDS
            except Fenced as problem:
                fenced = 1 if self._committed else fenced + 1
                self._observer.transaction(self.role.name, "fenced")
                log.warning("fenced", tp=str(self.tp), problem=str(problem), times=fenced)
                if fenced >= _TRIES:
                    raise Fenced(
                        f"{self.tp.topic}-{self.tp.partition} was fenced {fenced} times in a row: does a second "
                        "worker run with the same engine.app_id outside of the consumer group?"
                    ) from problem
                # If another worker owns it by now, the group tells us within a heartbeat or two; fencing the new
                # owner before that would be correct and rude.
                pause = self.role.fenced_pause_seconds
            await self._shut()
            self._idle.set()
            await asyncio.sleep(pause)
            await self._unpaused.wait()

    async def _open(self) -> None:
        number, say = self.tp.partition, self._observer.state
        say(self.role.name, number, "fencing")
        self._producer = PartitionProducer(
            f"{self.role.group}-{self.tp.topic}-{number}",
            self.role.group,
            self.tp,
            self.role.transaction_timeout_ms,
            self.role.client,
        )
        await self._producer.fence()
        self._committed = False
        committed = await self._source.committed(self.tp)
        say(self.role.name, number, "restoring")
        self._store, source_next = await self._restore()
        self._next = await self._first_offset(committed, source_next)
        self.expected = self.delivered = self._next
        self._drop_pending()
        await self._source.seek(self.tp, self._next)
        await self._plan()
        if self._cut_due:
            # Another owner may have cut over to a generation that this worker is still loading. To cut back would have
            # the items told of everything once more: what is announced is waited for.
            await self.role.newest()
            await self._plan()
        self.ready = True
        say(self.role.name, number, "ready")
        log.info("partition_ready", tp=str(self.tp), offset=self._next)
        self._check = asyncio.create_task(self._check_or_fail(self._next), name=f"check-{self.tp.partition}")

    async def _first_offset(self, committed: int | None, source_next: int | None) -> int:
        """Where to start: committed offset and changelog marker must agree, they moved in the same transactions."""
        if committed is not None and source_next is not None and committed != source_next:
            raise ChangelogMismatch(
                f"{self.tp.topic}-{self.tp.partition}: group {self.role.group} committed {committed}, but "
                f"{self.role.changelog} accounts for {source_next}; were offsets reset by hand? "
                f"Set them back to {source_next}, or delete and bootstrap anew"
            )
        if committed is not None and source_next is None:
            raise ChangelogMismatch(
                f"{self.tp.topic}-{self.tp.partition}: group {self.role.group} committed {committed}, but "
                f"{self.role.changelog} is empty; was the topic deleted? Use another engine.app_id for a fresh start"
            )
        if source_next is not None:  # committed offsets may have expired while nothing ran; the marker has not
            return source_next
        return max(self.role.first_offsets.get(self.tp.partition, 0), await self._source.beginning(self.tp))

    async def _check_end(self, offset: int) -> None:
        """What is accounted for must still be there; else the worker would wait for ever for what comes after it.

        Nobody waits for it at an opening: the answer queues behind a fetch that waits for records.
        """
        end = await self._source.ending(self.tp)
        if offset > end:
            raise ChangelogMismatch(
                f"{self.tp.topic}-{self.tp.partition}: {offset} records are accounted for, but the log ends at {end}; "
                "was the topic deleted and made anew, or did the broker lose data? For a topic made anew use another "
                "engine.app_id and prefix, or delete the group and all topics of the prefix, and bootstrap"
            )

    async def _check_or_fail(self, offset: int) -> None:
        try:
            await self._check_end(offset)
        except ChangelogMismatch as problem:
            await self._fail(problem)
        except (*_UNREACHABLE, KafkaError) as problem:
            log.debug("end_not_checked", tp=str(self.tp), problem=repr(problem))

    async def _restore(self) -> tuple[Store, int | None]:
        """The store, caught up with its changelog; a damaged one, or one of another changelog, is built anew."""
        changelog = (self.role.changelog, self.tp.partition)

        def progress(share: float) -> None:
            self._observer.state(self.role.name, self.tp.partition, "restoring", share)

        for attempt in range(2):
            store = None
            try:
                store = Store(self._path, self.role.memory)
                done = await replay(store, changelog, self.role.client, progress)
            except (StoreDamaged, StoreAhead) as problem:
                if store is not None:
                    store.close()
                if attempt:
                    raise
                self._rebuild("ahead" if isinstance(problem, StoreAhead) else "damaged", problem)
            except BaseException:
                if store is not None:
                    store.close()
                raise
            else:
                log.info("restored", tp=str(self.tp), rows=done.rows)
                return store, done.source_next
        raise AssertionError("unreachable")

    def _rebuild(self, reason: str, problem: Exception) -> None:
        """Put the store out of the way: a damaged one is kept for whoever wants to look."""
        log.error("store_rebuilt", tp=str(self.tp), reason=reason, problem=str(problem))
        self._observer.rebuilt(reason)
        wipe(self._path) if reason == "ahead" else quarantine(self._path)

    @property
    def _path(self) -> Path:
        return self.role.store_root / f"{self.tp.topic}-{self.tp.partition}"

    # --- generations --------------------------------------------------------------------------------------------

    async def _plan(self) -> None:
        """What the rows owe to the generation that is served: a cut, a pass over them, or nothing."""
        assert self._store is not None
        self._step, self._to = self._to or self._step, None
        step, cut = self._step, self._store.cut
        self._cut_due = not step.founding if cut is None else cut.generation != step.generation
        self._renewal = None
        if cut is not None and not self._cut_due and not cut.settled:
            unwritten = await self.role.lanes.maths.run(partial(step.unwritten, self.tp.partition))
            self._renewal = Renewal(step, self._store, unwritten)
        settled = not self._cut_due and self._renewal is None
        self._observer.settled(self.role.name, self.tp.partition, settled=settled)
        if self._cut_due:
            self._wake.set()

    async def _cut_over(self) -> None:
        """Record from which offset on another generation holds: the one point where a partition changes it."""
        await self._put(Effects(), Cut(self._step.generation, self._next, settled=False))
        log.info("cut_over", tp=str(self.tp), generation=f"{self._step.generation:016x}", offset=self._next)
        await self._plan()

    async def _renew_some(self, renewal: Renewal) -> None:
        """Some rows of the pass in a transaction of their own; the last one says that the partition is settled."""
        keys, rows = await self.role.lanes.store.run(renewal.chunk)
        self.role.pace.take(max(len(keys), 1))
        if keys:
            await self._renew(keys, rows)
        if renewal.finished:
            await self._put(Effects(), Cut(self._step.generation, self._next, settled=True))
            log.info("generation_settled", tp=str(self.tp), generation=f"{self._step.generation:016x}")
            await self._plan()

    async def _renew(self, keys: list[bytes], rows: list[bytes | None]) -> None:
        effects = await self.role.lanes.maths.run(partial(self._step.renew, keys, rows, self.tp.partition))
        await self._put(effects)
        self._observer.renewed(self.role.name, len(keys))

    async def _put(self, effects: Effects, cut: Cut | None = None) -> None:
        """A transaction that takes no record of the source."""
        done = await self._send(effects, self._next, {}, cut)
        self._observer.transaction(self.role.name, "committed")
        await self._write(done, self._next)

    # --- batches ------------------------------------------------------------------------------------------------

    async def _process(self) -> None:
        while True:
            await self._something_to_do()
            if self.paused:
                self._drop_pending()
                continue
            try:
                async with self.role.lanes.turns.turn():
                    # Only now: what came while others had their turn goes along.
                    if not self._may_work():
                        continue
                    self._idle.clear()
                    work = await self._work()
                if work is None:
                    continue
                await self._settle(*work)
                if self._producer is not None and self._producer.worn:
                    raise _Worn
                self._most = min(2 * self._most, self.role.max_batch_events)
            except _Ahead:
                await asyncio.sleep(_AHEAD_LOOK_SECONDS)
            finally:
                self._idle.set()

    async def _something_to_do(self) -> None:
        if not self._pending and self._to is None and not self._cut_due:
            self._wake.clear()
        if self._renewal is None or self.paused:
            await self._wake.wait()
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.role.pace.wait()):
                    await self._wake.wait()

    async def _work(self) -> tuple[list[Any], int, Committed] | None:
        """One turn: a change of generation, some rows of its pass, and a batch, committed but not stored."""
        if self._to is not None:
            await self._plan()
        if self._cut_due:
            await self._cut_over()
        if self._renewal is not None and not self.role.pace.wait():
            await self._renew_some(self._renewal)
        if not self._pending:
            return None
        records, end = self._take()
        if not records:  # markers only: nothing to commit, they are read again after a restart
            self._next = end
            return None
        return records, end, await self._commit(records, end)

    def _take(self) -> tuple[list[Any], int]:
        """What waits, up to the bound of a batch, and the position after it."""
        span = self._pending.popleft()
        if len(span.records) > self._most:  # after a failure: the rest goes back to the front
            rest = span.records[self._most :]
            self._pending.appendleft(Span(rest[0].offset, span.end, rest))
            span = Span(span.start, rest[0].offset, span.records[: self._most])
        records, end = span.records, span.end
        while self._pending and len(records) + len(self._pending[0].records) <= self._most:
            span = self._pending.popleft()
            records, end = records + span.records, span.end
        self._pending_records -= len(records)
        if not self._pending:
            self._wake.clear()
        return records, end

    async def _commit(self, records: list[Any], end: int) -> Committed:
        """Compute a batch and commit its transaction."""
        assert self._store is not None
        step, lanes, store = self._step, self.role.lanes, self._store
        seconds: dict[str, float] = {}
        started = time.perf_counter()
        batch = step.read(records, self.tp.partition)
        if batch.ahead:
            self._wait_for_generation(batch)
            self._put_back(records, end)
            raise _Ahead
        seconds["read"] = time.perf_counter() - started
        rows = await lanes.store.run(_timed(seconds, "get", lambda: store.get_many(batch.keys)))
        if self._renewal is not None:
            rows = await self._renewed(batch.keys, rows)
        effects = await lanes.maths.run(_timed(seconds, "apply", lambda: step.apply(batch, rows)))
        seconds["wait"] = time.perf_counter() - started - sum(seconds.values())
        return await self._send(effects, end, seconds)

    async def _renewed(self, keys: list[bytes], rows: list[bytes | None]) -> list[bytes | None]:
        """The rows with the stale ones renewed, before a batch is applied to them."""
        assert self._store is not None
        stale = [(key, row) for key, row in zip(keys, rows, strict=True) if self._step.stale(key, row)]
        if not stale:
            return rows
        await self._renew([key for key, _ in stale], [row for _, row in stale])
        return await self.role.lanes.store.run(partial(self._store.get_many, keys))

    def _wait_for_generation(self, batch: Any) -> None:
        """Records of a generation that nobody has announced are waited for, not for ever."""
        now = time.monotonic()
        self._ahead_since = self._ahead_since or now
        if now - self._ahead_since > _AHEAD_SECONDS:
            log.error("unknown_generation", tp=str(self.tp), offset=self._next, waited=_AHEAD_SECONDS)
            self._step.give_up(batch)

    def _put_back(self, records: list[Any], end: int) -> None:
        """To the front of the queue: they are for the generation after the next cut."""
        self._pending.appendleft(Span(self._next, end, records))
        self._pending_records += len(records)
        self._wake.set()

    async def _send(self, effects: Effects, end: int, seconds: dict[str, float], cut: Cut | None = None) -> Committed:
        """Commit effects and the next source offset in one transaction."""
        assert self._producer is not None
        started = time.perf_counter()
        changelog: Target = (self.role.changelog, self.tp.partition)
        sends, encoded = dict(effects.sends), dict(effects.encoded)
        written = sum(one.count for one in effects.changelog)
        sends[changelog] = [(key, row, None, []) for key, row in effects.rows[written:]]
        if cut is not None:
            sends[changelog].append((GENERATION_KEY, encode_cut(cut), None, []))
        sends[changelog].append((MARKER_KEY, encode_marker(end), None, []))
        if written:
            encoded[changelog] = effects.changelog
        changelog_end = await self._producer.commit(sends, encoded, end, changelog)
        seconds["commit"] = time.perf_counter() - started
        assert changelog_end is not None
        return Committed(effects, changelog_end, seconds, cut)

    async def _settle(self, records: list[Any], end: int, done: Committed) -> None:
        """Write a committed batch to the store."""
        # The batch has happened. From here to the store's write only this process knows it before the changelog says
        # it to the next owner; a crash in between is what replay is for.
        self._next, self._committed = end, True
        self._observer.transaction(self.role.name, "committed")
        await self._write(done, end)
        self._observer.batch(self.role.name, records, done.effects, done.seconds)
        self._step.reuse(done.effects)
        self._ahead_since = 0.0

    async def _write(self, done: Committed, end: int) -> None:
        """Write the rows; a store that can't be written (a full disk) stops this partition, and nothing is lost."""
        assert self._store is not None
        store = self._store
        say, role, number = self._observer.state, self.role.name, self.tp.partition
        held = False
        while True:
            try:
                write = partial(store.write, done.effects.rows, done.changelog_end, end, done.cut)
                await self.role.lanes.store.run(_timed(done.seconds, "store", write))
            except StoreUnwritable as problem:
                held = True
                log.error("store_unwritable", tp=str(self.tp), problem=str(problem))
                say(role, number, "paused")
                await asyncio.sleep(_STORE_RETRY_SECONDS)
            else:
                if held:
                    log.info("store_writable_again", tp=str(self.tp))
                    say(role, number, "ready")
                return


def _asked_to_end() -> bool:
    """Has somebody cancelled this very task?"""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _timed(seconds: dict[str, float], stage: str, work: Callable[[], Result]) -> Callable[[], Result]:
    """The same work, which notes how long it took."""

    def timed() -> Result:
        started = time.perf_counter()
        result = work()
        seconds[stage] = time.perf_counter() - started
        return result

    return timed
