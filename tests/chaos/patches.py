"""Faults and taken-away defences, applied from outside to the worker's modules. The product has no switch for any.

A patch is named ``name`` or ``name:n``; with a number it strikes at the n-th time (from 1) that its place is reached.

Fault points kill the process with SIGKILL, in the commit order:

    after_fence        the partition is fenced, nothing else is done
    in_restore         some rows of the changelog are replayed, and on disk
    after_read         a batch is taken from the queue
    after_begin        its transaction is begun
    after_some_sends   its first record batch is acknowledged
    after_all_sends    all of them are, the source offset is not sent yet
    before_commit      the offset is sent, too
    after_commit       it is committed, and not yet in the store
    after_store        it is in the store
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError

from streamer.engine import changelog, group, renewal
from streamer.engine.partition import Partition
from streamer.engine.store import Store
from streamer.engine.transaction import PartitionProducer
from streamer.engine.transport import MicroBatchConsumer
from streamer.generations import Generations
from streamer.serving import Loader
from streamer.steps import renew
from streamer.steps.horizon import Horizon
from tests.streamer.steps.world import records_of

LANDED_FILE = "CHAOS_LANDED"
"""The environment's name of the file that says which patch struck."""

Patch = Callable[["Strike"], None]


class Strike:
    """Counts how often a place was reached and says when to strike, once."""

    def __init__(self, name: str, nth: int) -> None:
        self._name, self._left = name, nth

    def now(self) -> bool:
        """Is this the time? Notes that it was."""
        self._left -= 1
        if self._left == 0:
            self._note()
        return self._left == 0

    def kill(self) -> NoReturn:
        """End this process as a power cut would."""
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    def _note(self) -> None:
        file = os.environ.get(LANDED_FILE)
        if file:
            with Path(file).open("a") as landed:
                landed.write(f"{self._name}\n")


def _replace(owner: Any, name: str, value: Any) -> None:
    """Put something else in the place of a class's or module's attribute."""
    assert hasattr(owner, name), f"{owner.__name__} has no {name}: the patch is out of date"
    setattr(owner, name, value)


def apply_patch(text: str) -> None:
    """Apply one patch, ``name`` or ``name:n``."""
    name, _, nth = text.partition(":")
    PATCHES[name](Strike(name, int(nth or 1)))


# --- fault points ----------------------------------------------------------------------------------------------------


def _kill_around(owner: Any, method: str, *, after: bool) -> Patch:
    """Kill before or after an asynchronous method."""

    def patch(strike: Strike) -> None:
        original = getattr(owner, method)

        async def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not after and strike.now():
                strike.kill()
            result = await original(self, *args, **kwargs)
            if after and strike.now():
                strike.kill()
            return result

        _replace(owner, method, patched)

    return patch


def _kill_after_some_sends(strike: Strike) -> None:
    """Only the first batch of a transaction counts: the rest is not even handed over."""
    original = AIOKafkaProducer.send_batch
    begin = AIOKafkaProducer.begin_transaction

    async def begun(self: Any) -> Any:
        self.chaos_first = True
        return await begin(self)

    async def sent(self: Any, *args: Any, **kwargs: Any) -> Any:
        future = await original(self, *args, **kwargs)
        first, self.chaos_first = self.chaos_first, False
        if first and strike.now():
            await future
            strike.kill()
        return future

    _replace(AIOKafkaProducer, "begin_transaction", begun)
    _replace(AIOKafkaProducer, "send_batch", sent)


def _kill_after_all_sends(strike: Strike) -> None:
    """Await every record batch, then die instead of sending the source offset."""
    original = AIOKafkaProducer.send_batch
    offsets = AIOKafkaProducer.send_offsets_to_transaction

    async def sent(self: Any, *args: Any, **kwargs: Any) -> Any:
        future = await original(self, *args, **kwargs)
        self.chaos_futures = [*getattr(self, "chaos_futures", []), future]
        return future

    async def offsets_sent(self: Any, *args: Any, **kwargs: Any) -> Any:
        futures, self.chaos_futures = self.chaos_futures, []
        if strike.now():
            await asyncio.gather(*futures)
            strike.kill()
        return await offsets(self, *args, **kwargs)

    _replace(AIOKafkaProducer, "send_batch", sent)
    _replace(AIOKafkaProducer, "send_offsets_to_transaction", offsets_sent)


def _kill_after_store(strike: Strike) -> None:
    """The rows are in the store and on disk: what a write that the crash lost would hide."""
    original = Partition._write

    async def written(self: Any, done: Any, end: int) -> None:
        await original(self, done, end)
        if strike.now():
            _flush(self._store)
            strike.kill()

    _replace(Partition, "_write", written)


def _flush(store: Any) -> None:
    """Both column families: a flush asked for by hand is of one, atomic or not."""
    store._rows.flush()
    store._meta.flush()


def _kill_in_restore(strike: Strike) -> None:
    """Replay in small steps, and die after one of them with its rows flushed to disk."""
    _replace(changelog, "_META_ROWS", 10)
    original = Store.write

    def written(self: Any, rows: Any, offset: int, source_next: int | None, cut: Any = None) -> None:
        original(self, rows, offset, source_next, cut)
        if rows and strike.now():
            self._rows.flush()
            strike.kill()

    _replace(Store, "write", written)


# --- mishaps: what the world does without killing anybody -------------------------------------------------------------


def _freeze_before_commit(strike: Strike) -> None:
    """Stop like a machine that sleeps, in the middle of a transaction; whoever sends SIGCONT wakes a zombie."""
    original = AIOKafkaProducer.commit_transaction

    async def patched(self: Any) -> Any:
        if strike.now():
            os.kill(os.getpid(), signal.SIGSTOP)
        return await original(self)

    _replace(AIOKafkaProducer, "commit_transaction", patched)


def _freeze_in_open(strike: Strike) -> None:
    """Sleep between reading the committed offset and replaying the changelog."""
    original = Partition._restore

    async def patched(self: Any) -> Any:
        if strike.now():
            os.kill(os.getpid(), signal.SIGSTOP)
        return await original(self)

    _replace(Partition, "_restore", patched)


def _lose_commit_reply(strike: Strike) -> None:
    """The broker commits and its answer never comes."""
    original = AIOKafkaProducer.commit_transaction

    async def patched(self: Any) -> Any:
        result = await original(self)
        if strike.now():
            raise KafkaTimeoutError
        return result

    _replace(AIOKafkaProducer, "commit_transaction", patched)


def _refuse_a_batch(strike: Strike) -> None:
    """A record without a key goes into the changelog's batch: the broker itself refuses that, and takes the others."""
    original = PartitionProducer._send

    async def patched(self: Any, sends: Any, encoded: Any, source_next: int, changelog: Any) -> Any:
        if strike.now():
            sends = {**sends, changelog: [*sends[changelog], (None, b"no key", None, [])]}
        return await original(self, sends, encoded, source_next, changelog)

    _replace(PartitionProducer, "_send", patched)


def _lose_a_span(strike: Strike) -> None:
    """Faust drops fetched messages on their way to the agent, as it does at a rebalance."""
    original = MicroBatchConsumer.getmany

    async def patched(self: Any, timeout: float) -> Any:
        async for tp, message in original(self, timeout):
            span: Any = message.value
            if span.records and strike.now():
                continue
            yield tp, message

    _replace(MicroBatchConsumer, "getmany", patched)


def _renew_in_small_steps(_: Strike) -> None:
    """So that a pass over few rows takes many transactions."""
    _replace(renewal, "_ROWS", 4)


def _load_slowly(seconds: float) -> Patch:
    """A generation that is announced while the worker runs takes seconds to load."""

    def patch(_: Strike) -> None:
        original = Loader.load

        async def load(self: Any, active: Any, *progress: Any, before: Any = None) -> Any:
            if before is not None:
                await asyncio.sleep(seconds)
            return await original(self, active, *progress, before=before)

        _replace(Loader, "load", load)

    return patch


# --- defences taken away ----------------------------------------------------------------------------------------------


def _store_first(_: Strike) -> None:
    """Rows go to the store, and to disk, before the transaction is committed."""
    original = PartitionProducer.commit
    opened = Partition._open

    async def open_(self: Any) -> None:
        await opened(self)
        self._producer.chaos_store = self._store

    async def patched(
        self: Any, sends: Mapping[Any, Any], encoded: Mapping[Any, Any], source_next: int, target: Any
    ) -> Any:
        store = self.chaos_store
        written = [record for batch in encoded.get(target, ()) for record in records_of(batch)]
        rows = [(key, row) for key, row, *_ in [*written, *sends[target]] if key]
        store.write(rows, store.changelog_offset or 0, store.source_next)
        _flush(store)
        return await original(self, sends, encoded, source_next, target)

    _replace(Partition, "_open", open_)
    _replace(PartitionProducer, "commit", patched)


def _no_fencing(_: Strike) -> None:
    """Every producer has a transactional id of its own, so no owner ever ends another."""
    original = PartitionProducer.__init__

    def patched(self: Any, transactional_id: str, *args: Any, **kwargs: Any) -> None:
        original(self, f"{transactional_id}-{uuid.uuid4().hex}", *args, **kwargs)

    _replace(PartitionProducer, "__init__", patched)


def _no_gap_guard(_: Strike) -> None:
    """Where a span starts is believed: what is missing before it is never missed."""
    original = Partition.offer

    async def offer(self: Any, span: Any) -> None:
        self.expected = span.start
        await original(self, span)

    _replace(Partition, "offer", offer)
    _replace(Partition, "missed", lambda self, now: False)


def _no_catching_up(_: Strike) -> None:
    """A renewed user's items never hear of the events that the new model was not trained on."""
    original = renew._signals

    def silent(users: Any, confidence: Any, items: Any, since: Any) -> Any:
        return original(users, confidence, items, np.full_like(since, 2**62))

    _replace(renew, "_signals", silent)


def _cut_back(_: Strike) -> None:
    """Who takes a partition over cuts it over to whatever it serves itself, be it older."""

    async def at_once(self: Any) -> None:
        pass

    _replace(Generations, "newest", at_once)


def _no_waiting(_: Strike) -> None:
    """Signals of a generation that is still to come are dropped like those of one that has gone."""
    _replace(Horizon, "beyond", lambda self, generations: False)


def _poll_within_4s(strike: Strike) -> None:
    """Instead of five minutes: a loop that stands still for longer loses its partitions."""
    _replace(group, "POLL_SECONDS", 4.0)


def _stall(strike: Strike) -> None:
    """The event loop stands still for 9 s, while the consumer's thread goes on sending heartbeats."""
    original = Partition.offer

    async def patched(self: Any, span: Any) -> None:
        if strike.now():
            time.sleep(9.0)  # noqa: ASYNC251 - on purpose
        await original(self, span)

    _replace(Partition, "offer", patched)


PATCHES: dict[str, Patch] = {
    "after_fence": _kill_around(PartitionProducer, "fence", after=True),
    "in_restore": _kill_in_restore,
    "after_read": _kill_around(Partition, "_commit", after=False),
    "after_begin": _kill_around(AIOKafkaProducer, "begin_transaction", after=True),
    "after_some_sends": _kill_after_some_sends,
    "after_all_sends": _kill_after_all_sends,
    "before_commit": _kill_around(AIOKafkaProducer, "commit_transaction", after=False),
    "after_commit": _kill_around(PartitionProducer, "commit", after=True),
    "after_store": _kill_after_store,
    "freeze_before_commit": _freeze_before_commit,
    "freeze_in_open": _freeze_in_open,
    "lose_commit_reply": _lose_commit_reply,
    "refuse_a_batch": _refuse_a_batch,
    "lose_a_span": _lose_a_span,
    "renew_in_small_steps": _renew_in_small_steps,
    "load_slowly": _load_slowly(4.0),
    "load_for_20s": _load_slowly(20.0),
    "cut_back": _cut_back,
    "poll_within_4s": _poll_within_4s,
    "stall": _stall,
    "after_cut": _kill_around(Partition, "_cut_over", after=True),
    "after_renewal": _kill_around(Partition, "_renew", after=True),
    "store_first": _store_first,
    "no_fencing": _no_fencing,
    "no_gap_guard": _no_gap_guard,
    "no_catching_up": _no_catching_up,
    "no_waiting": _no_waiting,
}
