"""A Kafka record batch of version 2, by hand (KIP-98; kafka.apache.org/protocol, "Record Batch").

    0 i8 base offset 0        8 i4 length of what follows     12 i4 leader epoch -1     16 i1 magic 2
    17 u4 CRC-32C of all that follows                         21 i2 attributes (16: transactional)
    23 i4 last offset delta   27 i8 first timestamp, ms       35 i8 last timestamp      43 i8 producer id
    51 i2 producer epoch      53 i4 base sequence             57 i4 number of records   61 records, big-endian

The compiled twin of `encode_record` is `streamer.steps.kernel.wire`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from crc32c import crc32c

from streamer.steps.effects import Outgoing

HEADER = 61
_BEGIN = struct.Struct(">qiibI")
_REST = struct.Struct(">hiqqqhii")
_TRANSACTIONAL = 16


def encode_batch(
    data: memoryview,
    count: int,
    more: Sequence[Outgoing],
    *,
    now: int,
    producer: tuple[int, int],
    sequence: int,
) -> list[bytes | memoryview]:
    """A transactional record batch as it is sent, in pieces: header, ``data`` (not copied), and what is appended.

    Args:
        data: `HEADER` free bytes, then records.
        count: how many.
        more: records to append; they have the time of sending, too.
        now: the time of sending, ms.
        producer: id and epoch.
        sequence: of the first record.
    """
    last = b"".join(encode_record(count + number, record) for number, record in enumerate(more))
    count += len(more)
    rest = _REST.pack(_TRANSACTIONAL, count - 1, now, now, *producer, sequence, count)
    check = crc32c(last, crc32c(data[HEADER:], crc32c(rest)))
    size = len(data) + len(last) - 12
    return [_BEGIN.pack(0, size, -1, 2, check) + rest, data[HEADER:], last]


def encode_record(number: int, record: Outgoing) -> bytes:
    """One record; ``number`` is its place in the batch, and its timestamp is left to the batch."""
    key, value, timestamp, headers = record
    if timestamp is not None:
        raise ValueError("a record with a timestamp of its own does not go into a batch with the time of sending")
    parts = [b"\0\0", _size(number), _sized(key), _sized(value), _size(len(headers))]
    for name, content in headers:
        parts += [_sized(name.encode()), _sized(content)]
    body = b"".join(parts)
    return _size(len(body)) + body


def header_bytes(name: str, content: bytes) -> bytes:
    """A record's header."""
    return _sized(name.encode()) + _sized(content)


def name_bytes(name: str) -> bytes:
    """A record header's name."""
    return _sized(name.encode())


def _sized(content: bytes | None) -> bytes:
    return b"\x01" if content is None else _size(len(content)) + content


def _size(number: int) -> bytes:
    """A number from 0 on as a zigzag varint."""
    rest, out = number << 1, bytearray()
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)
