"""aiokafka's reader of fetched records, and what it can't read: producers must not be able to stop a partition.

Brokers look at a record batch's header and let much of the rest through. Batch by batch::

    read by aiokafka                     almost all
    a header name is no UTF-8            read again in Python: escapes in the name, at most `_MOST_HEADERS`
    offsets that are no places in it     counted anew from the batch's own
    can't be decompressed or parsed      one record with the batch's bytes and `UNREADABLE`, which becomes a dead letter

The last two only on topics that somebody else than this project writes (`SALVAGED`): elsewhere an error is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import decode_varint

SALVAGED: set[str] = set()
"""Full names of the topics whose batches are salvaged; the worker adds to it before it reads any."""
UNREADABLE = "factors.unreadable"
"""Header of what stands for a batch that can't be read: how many records it says it has, and what is wrong."""

_MOST_HEADERS = 1_000
_HEADER = _DefaultRecordBatchPy.HEADER_STRUCT.size
_BEFORE_LENGTH, _AFTER_LENGTH, _MAGIC = 8, 12, 16


def install() -> None:
    """Have aiokafka's consumers of this process read so."""
    fetcher.MemoryRecords = _Batches
    fetcher.PartitionRecords = _Records


class _Records(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """The records of a fetch; only tells its batches whose they are."""

    def __init__(self, tp: Any, records: _Batches, *arguments: Any) -> None:
        records.salvaged = tp.topic in SALVAGED
        super().__init__(tp, records, *arguments)


class _Batches(MemoryRecords):  # type: ignore[misc]  # compiled, without types
    """The record batches of a fetch, each with its bytes."""

    salvaged = False

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._data, self._at = data, 0

    def next_batch(self) -> Any:
        """The next one; those of older formats as they are."""
        batch, start = super().next_batch(), self._at
        self._at += _AFTER_LENGTH + int.from_bytes(self._data[start + _BEFORE_LENGTH : start + _AFTER_LENGTH], "big")
        return batch if batch is None or self._data[start + _MAGIC] < 2 else _Batch(batch, self, start, self._at)


class _Record(NamedTuple):
    """As aiokafka's own."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    checksum: None = None


class _Batch:
    """A batch whose records are all read before the first is handed over; otherwise aiokafka's own."""

    def __init__(self, batch: Any, fetched: _Batches, start: int, end: int) -> None:
        self._batch, self._fetched, self._start, self._end = batch, fetched, start, end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)  # of a control batch

    def __iter__(self) -> Iterator[Any]:
        return iter(self._placed(self._read()))

    def _read(self) -> list[Any]:
        data = self._fetched._data[self._start : self._end]
        try:
            try:
                return list(self._batch)
            except UnicodeDecodeError:
                return list(_LenientBatch(data))
        except Exception as problem:
            if not self._fetched.salvaged:
                raise
            return [_stand_in(self._batch, data, problem)]

    def _placed(self, records: list[Any]) -> list[Any]:
        """The same records with offsets that increase within the batch, which is what all that follows relies on."""
        first = self._batch.base_offset
        if [record.offset for record in records] == list(range(first, first + len(records))):
            return records
        if not self._fetched.salvaged:  # a compacted topic has gaps
            return records
        return [
            _Record(
                first + number, record.timestamp, record.timestamp_type, record.key, record.value, list(record.headers)
            )
            for number, record in enumerate(records)
        ]


def _stand_in(batch: Any, data: bytes, problem: Exception) -> _Record:
    count = batch.next_offset - batch.base_offset
    words = f"a batch of {count} records: {type(problem).__name__}: {problem}"[:500]
    return _Record(
        batch.base_offset,
        batch.max_timestamp,
        batch.timestamp_type,
        None,
        data[_HEADER:],
        [(UNREADABLE, words.encode("utf-8", "replace"))],
    )


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # final in name; its Python form is used on purpose
    """Escapes in place of a header name's bad bytes, and no more headers than anybody needs: they cost time here."""

    _pos: int

    def _read_msg(self) -> _Record:
        buffer, at = self._buffer, self._pos
        length, at = decode_varint(buffer, at)
        end = at + length
        delta, at = decode_varint(buffer, at + 1)
        place, at = decode_varint(buffer, at)
        late = self.timestamp_type == self.LOG_APPEND_TIME
        key, at = _bytes(buffer, at)
        value, at = _bytes(buffer, at)
        count, at = decode_varint(buffer, at)
        headers: list[tuple[str, bytes | None]] = []
        for _ in range(min(count, _MOST_HEADERS)):
            name, at = _bytes(buffer, at)
            content, at = _bytes(buffer, at)
            headers.append(((name or b"").decode("utf-8", "backslashreplace"), content))
        self._pos = end
        at_ms = self.max_timestamp if late else self.first_timestamp + delta
        return _Record(self.base_offset + place, at_ms, self.timestamp_type, key, value, headers)


def _bytes(buffer: bytearray, at: int) -> tuple[bytes | None, int]:
    size, at = decode_varint(buffer, at)
    return (None, at) if size < 0 else (bytes(buffer[at : at + size]), at + size)
