"""Records as they lie in a Kafka record batch of version 2 (KIP-98; kafka.apache.org/protocol, "Record Batch").

    record    length varint | attributes 0 | timestamp delta varint | offset delta varint
              | key length varint, key | value length varint, value | headers varint, (name, value) each

Varints are zigzag. All records of a batch have the time of sending, so the timestamp delta is 0. Before each batch
`HEADER` bytes stay free for its header, which needs the producer's id and the checksum (`streamer.steps.wire`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamer.factors.kernel.jit import copy, jit
from streamer.steps.wire import HEADER

_MORE = np.uint64(0x80)


@jit()
def size_of(number: int) -> Any:
    """Bytes of a varint of a number from 0 on."""
    rest, size = np.uint64(number) << np.uint64(1), 1
    while rest >= _MORE:
        rest >>= np.uint64(7)
        size += 1
    return size


@jit()
def put_size(out: Any, at: int, number: int) -> Any:
    """Write a number from 0 on as a varint; returns where it ends."""
    rest, place = np.uint64(number) << np.uint64(1), np.uint64(at)
    while rest >= _MORE:
        out[place] = np.uint8(rest | _MORE)
        rest >>= np.uint64(7)
        place += np.uint64(1)
    out[place] = np.uint8(rest)
    return np.int64(place) + 1


@jit()
def put_bytes(out: Any, at: int, data: Any, start: int, end: int) -> Any:
    """Copy data[start:end]; returns where it ends."""
    copy(data, start, out, at, end - start)
    return at + end - start


@jit()
def put_head(out: Any, at: int, number: int, key: int, value: int, headers: int) -> Any:
    """Write what comes before a record's key: ``key``, ``value`` and ``headers`` are sizes in bytes."""
    size = 2 + size_of(number) + size_of(key) + key + size_of(value) + value + headers
    at = put_size(out, at, size)
    out[at], out[at + 1] = 0, 0
    return put_size(out, at + 2, number)


@jit()
def start_of(ends: Any, number: int) -> Any:
    """Where one of the texts that lie end to end begins."""
    return ends[number - 1] if number else 0


@jit()
def place_for(size: int, chunks: Any, chunk: int, target: int, limit: int) -> Any:
    """Where a record of about so many bytes goes: the open batch, or a new one where it is full or of another target.

    chunks: for each batch its target, its end so far and its records; chunk: the open one, -1 before the first.
    Returns the batch and the place.
    """
    end = chunks[chunk, 1] if chunk >= 0 else 0
    start = chunks[chunk - 1, 1] if chunk > 0 else 0
    if chunk < 0 or chunks[chunk, 0] != target or end + size - start > limit:
        chunk, end = chunk + 1, end + HEADER
        chunks[chunk, 0], chunks[chunk, 1], chunks[chunk, 2] = target, end, 0
    return chunk, end


@jit()
def end_record(chunks: Any, chunk: int, at: int) -> None:
    """A record ends here."""
    chunks[chunk, 1] = at
    chunks[chunk, 2] += 1
