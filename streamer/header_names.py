r"""Header names that are not UTF-8: Kafka's protocol forbids them, its brokers let them through, its clients raise.

One such record would stop every reader of the topic at its place for ever. Here a name's odd bytes become ``\xff``
escapes, and the record is one like any other. Both clients parse a record batch from a buffer, slice by slice, and
decode nothing but these names: a buffer whose slices decode leniently is all that they need.
"""

from __future__ import annotations

from typing import Any

from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch


class LenientBuffer(bytearray):
    """A buffer whose slices turn undecodable bytes into escapes."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Slice(found) if isinstance(at, slice) else found


class _Slice(bytearray):
    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


class _LenientBatch(DefaultRecordBatch):  # type: ignore[misc]  # kafka-python has no types
    """kafka-python's record batch; reads on after a name that it can't decode."""

    _buffer: bytearray

    def _read_msg(self) -> Any:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:  # its position has not moved
            self._buffer = LenientBuffer(self._buffer)
            return super()._read_msg()


def install() -> None:
    """Have kafka-python's consumers of this process read leniently."""
    memory_records.DefaultRecordBatch = _LenientBatch
