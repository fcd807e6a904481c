"""One transaction a partition batch: everything that a batch does to Kafka happens at its commit, or not at all.

The transactional id is fixed by the partition, so that a new owner's `PartitionProducer.fence` ends whatever a dead or
stalled owner had open, and refuses its later sends (KIP-98; Kafka Streams' first exactly-once relied on the same).

Order inside `commit`, and what a crash costs:

1. begin, send every record batch and the source offsets, await each: a crash leaves nothing visible, it is read again;
2. commit: the one point where the batch happens;
3. (the caller) write the rows to the store: a crash before leaves the store behind the changelog, which is replayed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    ProducerFenced,
)
from aiokafka.producer import sender
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streamer.engine.flat import install
from streamer.steps.effects import Encoded, Outgoing, Target
from streamer.steps.wire import encode_batch

# After a commit the coordinator refuses the next transaction until its markers are written, some milliseconds later.
# aiokafka then waits for a constant that no setting reaches; its 20 ms were two thirds of a transaction's time.
sender.BACKOFF_OVERRIDE = 0.002

install()

# A record batch fits into a broker's default of 1,048,588 bytes; so do the kernel's (`streamer.steps.encoder.LIMIT`).
_MAX_BATCH_BYTES = 1_000_000
_FENCE_SECONDS = 30.0
_WORN = 1 << 30
_MOST_JOINED = 64
"""Records that are appended to a batch one by one; more of them make a batch of their own."""
_FENCED = (ProducerFenced, InvalidProducerEpoch, InvalidProducerIdMapping, InvalidTxnState, AssertionError)


class Fenced(Exception):
    """Another owner has taken the partition, or the broker's patience with the transaction ended."""


class OutcomeUnknown(Exception):
    """Nobody here knows whether the transaction happened: fence, and read from Kafka what did."""


class TransactionFailed(Exception):
    """The transaction was aborted; the batch had no effect and may be tried again from the committed offset."""


def _bytes_of(record: Outgoing) -> int:
    """About how many bytes a record takes in a batch."""
    key, value, _, headers = record
    return 64 + len(key or b"") + len(value or b"") + sum(len(name) + len(content) + 8 for name, content in headers)


class Prebuilt:
    """Records written already, to aiokafka's sender like its own `BatchBuilder` (whose methods these are)."""

    def __init__(self, encoded: Encoded, more: Sequence[Outgoing] = ()) -> None:
        self._encoded, self._more = encoded, more
        self._producer, self._sequence = (-1, -1), -1
        self._buffer: list[bytes | memoryview] | None = None

    def closed(self) -> bool:
        """Nothing more may be appended: it need not wait for more either."""
        return True

    def close(self) -> None:
        """It is."""

    def append(self, **_record: object) -> None:
        """Refused, as by a full batch."""

    def record_count(self) -> int:
        """How many records."""
        return self._encoded.count + len(self._more)

    def size(self) -> int:
        """Bytes, about."""
        return len(self._encoded.data)

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer, self._sequence = (producer_id, producer_epoch), base_sequence

    def _build(self) -> list[bytes | memoryview]:
        # Kept: a batch that is sent again must be the same bytes, or the broker can't tell that it is.
        if self._buffer is None:
            self._buffer = encode_batch(
                self._encoded.data,
                self._encoded.count,
                self._more,
                now=int(time.time() * 1000),
                producer=self._producer,
                sequence=self._sequence,
            )
        return self._buffer


class PartitionProducer:
    """The transactional producer of one source partition."""

    def __init__(
        self,
        transactional_id: str,
        group: str,
        source: TopicPartition,
        timeout_ms: int,
        options: Mapping[str, Any],
    ) -> None:
        self._group, self._source, self._timeout = group, source, timeout_ms / 1000
        self._producer = AIOKafkaProducer(
            transactional_id=transactional_id,
            transaction_timeout_ms=timeout_ms,
            max_batch_size=_MAX_BATCH_BYTES,
            max_request_size=8 << 20,
            # The default of 100 ms would be paid by every transaction that closely follows another.
            retry_backoff_ms=3,
            linger_ms=0,
            **options,
        )

    async def fence(self) -> None:
        """Take the partition: ends a former owner's open transaction and refuses its later sends.

        Raises:
            TimeoutError: the broker did not answer in time.
        """
        async with asyncio.timeout(_FENCE_SECONDS + self._timeout):
            await self._producer.start()

    @property
    def worn(self) -> bool:
        """Has some partition seen so many records of it that sequence numbers are about to run out?

        They are 32 bits and start again at 0, but aiokafka goes on below zero: a new producer starts anew.
        """
        numbers = self._producer._txn_manager._sequence_numbers
        return max(numbers.values(), default=0) > _WORN

    async def commit(
        self,
        sends: Mapping[Target, Sequence[Outgoing]],
        encoded: Mapping[Target, Sequence[Encoded]],
        source_next: int,
        changelog: Target,
    ) -> int | None:
        """Send all records, ``encoded`` ones of a target before the others, and the source offset; and commit.

        Returns:
            The changelog offset after the last record sent there; None when none was.

        Raises:
            Fenced: another owner exists; nothing happened.
            OutcomeUnknown: the commit's reply never came.
            TransactionFailed: aborted; nothing happened.
        """
        try:
            async with asyncio.timeout(self._timeout):
                await self._producer.begin_transaction()
                changelog_end = await self._send(sends, encoded, source_next, changelog)
        except _FENCED as problem:
            raise Fenced(str(problem) or repr(problem)) from problem
        except Exception as problem:  # noqa: BLE001 - any failure at all must end in an abort
            await self._abort(problem)
        try:
            async with asyncio.timeout(self._timeout):
                await self._producer.commit_transaction()
        except _FENCED as problem:
            raise Fenced(str(problem) or repr(problem)) from problem
        except Exception as problem:
            # The reply may be lost though the broker committed: only reading the offset again can tell.
            raise OutcomeUnknown(f"a commit has no known outcome: {problem!r}") from problem
        return changelog_end

    async def _send(
        self,
        sends: Mapping[Target, Sequence[Outgoing]],
        encoded: Mapping[Target, Sequence[Encoded]],
        source_next: int,
        changelog: Target,
    ) -> int | None:
        futures, sizes = [], []
        for target in dict.fromkeys([*encoded, *sends]):
            for batch in self._batches(target, encoded.get(target, ()), sends.get(target, ())):
                sizes.append(batch.record_count())
                futures.append(await self._producer.send_batch(batch, target[0], partition=target[1]))
        # aiokafka commits a transaction although a batch in it failed: each one is awaited, any failure aborts.
        *acks, _ = await asyncio.gather(*futures, self._send_offset(source_next))
        ends = [
            ack.offset + size for ack, size in zip(acks, sizes, strict=True) if (ack.topic, ack.partition) == changelog
        ]
        return max(ends, default=None)

    def _batches(self, target: Target, encoded: Sequence[Encoded], records: Sequence[Outgoing]) -> Iterator[Any]:
        """The record batches of a target; a few records more go into the last one that is written already."""
        if encoded:
            *whole, last = encoded
            yield from (Prebuilt(one) for one in whole)
            joins = len(records) <= _MOST_JOINED and all(timestamp is None for _, _, timestamp, _ in records)
            joins = joins and len(last.data) + sum(map(_bytes_of, records)) <= _MAX_BATCH_BYTES
            yield Prebuilt(last, records if joins else ())
            if joins:
                return
        batch = self._producer.create_batch()
        append = batch.append
        for key, value, timestamp, headers in records:
            if append(key=key, value=value, timestamp=timestamp, headers=headers) is None:
                yield batch
                batch = self._producer.create_batch()
                append = batch.append
                if append(key=key, value=value, timestamp=timestamp, headers=headers) is None:
                    raise ValueError(f"a record for {target[0]} is larger than {_MAX_BATCH_BYTES} bytes")
        if batch.record_count():
            yield batch

    async def _send_offset(self, source_next: int) -> None:
        offsets = {self._source: OffsetAndMetadata(source_next, "")}
        await self._producer.send_offsets_to_transaction(offsets, self._group)

    async def _abort(self, problem: Exception) -> NoReturn:
        try:
            async with asyncio.timeout(self._timeout):
                await self._producer.abort_transaction()
        except Exception as second:  # noqa: BLE001 - without an abort the outcome is unknown, too
            raise OutcomeUnknown(f"could not abort after {problem!r}: {second!r}") from problem
        raise TransactionFailed(str(problem) or repr(problem)) from problem

    async def close(self) -> None:
        """Stop; an open transaction is left to the next owner's fence."""
        try:
            async with asyncio.timeout(5):
                await self._producer.stop()
        except Exception:  # noqa: BLE001 - closing a fenced or unreachable producer has nothing left to save
            # It must not go on sending under this transactional id, though: end what `stop` has not come to.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1):
                    await self._producer._sender.close()
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1):
                    await self._producer.client.close()
