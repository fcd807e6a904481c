"""aiokafka's reader of fetched records, which also gets past a header name that is not UTF-8.

The compiled reader raises in the middle of a batch and can't go on there. From that batch on, the rest of the fetch is
read by aiokafka's reader in Python from a `LenientBuffer`: slower, and only for fetches that hold such a record.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

from streamer.header_names import LenientBuffer


def install() -> None:
    """Have aiokafka's consumers of this process read leniently."""
    fetcher.MemoryRecords = _KeptRecords
    fetcher.PartitionRecords = LenientRecords


class _KeptRecords(MemoryRecords):  # type: ignore[misc]  # compiled, without types
    """The record batches of a fetch, with the bytes that they are read from."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


class LenientRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """The records of a fetch, one by one."""

    _records: Any

    def _unpack_records(self) -> Iterator[Any]:
        try:
            yield from super()._unpack_records()
        except UnicodeDecodeError:
            # What was aborted up to this batch is known; the batch itself starts anew, without what was handed over.
            self._records = _LenientBatches(self._records.data, self.next_fetch_offset)
            yield from super()._unpack_records()


class _LenientBatches:
    """As aiokafka's `MemoryRecords`, from the batch that holds an offset on."""

    def __init__(self, data: bytes, first: int) -> None:
        self._batches: Iterator[_LenientBatch] = (batch for batch in _batches(data) if batch.next_offset > first)
        self._next = next(self._batches, None)

    def has_next(self) -> bool:
        return self._next is not None

    def next_batch(self) -> _LenientBatch | None:
        batch, self._next = self._next, next(self._batches, None)
        return batch


def _batches(data: bytes) -> Iterator[_LenientBatch]:
    at, head = 0, _DefaultRecordBatchPy.AFTER_LEN_OFFSET
    while at + head <= len(data):
        end = at + head + int.from_bytes(data[at + head - 4 : at + head], "big", signed=True)
        if end > len(data):  # a fetch may end in the middle of a batch
            return
        yield _LenientBatch(data[at:end])
        at = end


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # final in name; its Python form is used on purpose
    _buffer: bytearray

    def __iter__(self) -> Self:
        super().__iter__()  # decompresses
        self._buffer = LenientBuffer(self._buffer)
        return self
