"""Replay of a partition's changelog into its store: recovery after a crash, a lost disk or a move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from schemas.cuts import GENERATION_KEY, decode_cut
from schemas.layouts import MARKER_KEY, decode_marker
from streamer.engine.ending import stop_consumer
from streamer.engine.store import Store
from streamer.steps.effects import Target

_POLL_MS = 50
_META_ROWS = 5_000


class ChangelogMismatch(Exception):
    """Changelog and committed offset disagree: something other than this engine wrote one of them."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """rows: records applied; source_next: the marker's source offset, None when the changelog has none yet."""

    rows: int
    source_next: int | None


async def replay(
    store: Store, changelog: Target, options: Mapping[str, Any], progress: Callable[[float], None]
) -> Replayed:
    """Bring ``store`` up to the changelog's end, from the offset that the store itself records.

    Call it after the partition was fenced: then no transaction is open and the end is stable. ``progress`` hears the
    share done, 0 to 1.

    Raises:
        StoreAhead: the store records an offset beyond the changelog's end; it belongs to another changelog.
    """
    tp = TopicPartition(*changelog)
    consumer = AIOKafkaConsumer(
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=16 << 20,
        fetch_max_wait_ms=_POLL_MS,
        **options,
    )
    await consumer.start()
    try:
        consumer.assign([tp])
        end = (await consumer.end_offsets([tp]))[tp]
        first = store.changelog_offset or 0
        if first > end:
            raise StoreAhead(f"store {store.path} is at {first}, beyond the end {end} of {changelog[0]}")
        consumer.seek(tp, first)
        return await _read_until(consumer, tp, first, end, store, progress)
    finally:
        await stop_consumer(consumer)


class StoreAhead(Exception):
    """The store records a changelog offset that the changelog does not reach; wipe it and replay from the start."""


async def _read_until(
    consumer: AIOKafkaConsumer,
    tp: TopicPartition,
    first: int,
    end: int,
    store: Store,
    progress: Callable[[float], None],
) -> Replayed:
    applied, marker = 0, store.source_next
    position = first
    while position < end:
        records = (await consumer.getmany(tp, timeout_ms=_POLL_MS, max_records=_META_ROWS)).get(tp, [])
        rows: list[tuple[bytes, bytes | None]] = []
        cut = None
        for record in records:
            if record.key == MARKER_KEY:
                marker = decode_marker(record.value)
            elif record.key == GENERATION_KEY:
                cut = decode_cut(record.value)
            else:
                rows.append((record.key, record.value))
        # The position also passes markers and aborted records, which no record shows.
        position = await consumer.position(tp)
        store.write(rows, position, marker, cut)
        applied += len(rows)
        progress((position - first) / (end - first))
    return Replayed(applied, marker)
