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
from collections.abc import Iterable, Iterator, Mapping
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

from streamer.steps.effects import Outgoing, Target

# After a commit the coordinator refuses the next transaction until its markers are written, some milliseconds later.
# aiokafka then waits for a constant that no setting reaches; its 20 ms were two thirds of a transaction's time.
sender.BACKOFF_OVERRIDE = 0.002

_MAX_BATCH_BYTES = 4 << 20
_FENCED = (ProducerFenced, InvalidProducerEpoch, InvalidProducerIdMapping, InvalidTxnState, AssertionError)


class Fenced(Exception):
    """Another owner has taken the partition, or the broker's patience with the transaction ended."""


class OutcomeUnknown(Exception):
    """Nobody here knows whether the transaction happened: fence, and read from Kafka what did."""


class TransactionFailed(Exception):
    """The transaction was aborted; the batch had no effect and may be tried again from the committed offset."""


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
            max_request_size=2 * _MAX_BATCH_BYTES,
            # The default of 100 ms would be paid by every transaction that closely follows another.
            retry_backoff_ms=3,
            linger_ms=0,
            **options,
        )

    async def fence(self) -> None:
        """Take the partition: ends a former owner's open transaction and refuses its later sends."""
        await self._producer.start()

    async def commit(
        self, sends: Mapping[Target, Iterable[Outgoing]], source_next: int, changelog: Target
    ) -> int | None:
        """Send all records and the source offset in one transaction, and commit it.

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
                changelog_end = await self._send(sends, source_next, changelog)
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
        self, sends: Mapping[Target, Iterable[Outgoing]], source_next: int, changelog: Target
    ) -> int | None:
        futures, sizes = [], []
        for target, records in sends.items():
            for batch in self._batches(target, records):
                sizes.append(batch.record_count())
                futures.append(await self._producer.send_batch(batch, target[0], partition=target[1]))
        # aiokafka commits a transaction although a batch in it failed: each one is awaited, any failure aborts.
        *acks, _ = await asyncio.gather(*futures, self._send_offset(source_next))
        ends = [
            ack.offset + size for ack, size in zip(acks, sizes, strict=True) if (ack.topic, ack.partition) == changelog
        ]
        return max(ends, default=None)

    def _batches(self, target: Target, records: Iterable[Outgoing]) -> Iterator[Any]:
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
        except Exception:  # noqa: BLE001, S110 - closing a fenced or unreachable producer has nothing left to save
            pass
