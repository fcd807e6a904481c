"""Produce requests written as the pieces that they consist of.

aiokafka builds a request by joining it level by level: a record batch of a megabyte is copied seven times before the
socket sees it. Here the socket gets the record batches as they are, with the few bytes between them. `install` makes
every connection of this process one that does so; what is sent is the same (tests/streamer/engine/test_flat.py).
They also get over a socket that uvloop has closed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

from aiokafka import conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.types import Int16, Int32, String

Piece = bytes | bytearray | memoryview

_TEXT = String("utf-8")
_VERSIONS = range(3, 8)  # with a transactional id, up to the newest that aiokafka knows


def install() -> None:
    """Have aiokafka make connections that write pieces."""
    conn.AIOKafkaConnection = FlatConnection


class FlatConnection(conn.AIOKafkaConnection):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's connection but for the bytes of produce requests."""

    _writer: Any

    def send(self, request: Any, expect_response: bool = True) -> Any:
        """Send a request; returns what gives the response.

        Raises:
            KafkaConnectionError: there is no connection any more.
        """
        try:
            return self._send(request, expect_response)
        except RuntimeError as problem:
            # uvloop's word for a closed socket, where asyncio says OSError. aiokafka does not expect it: whichever of
            # its tasks meets it ends for good, and with it whoever waits for that task.
            self.close(reason=conn.CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"connection at {self.host}:{self.port} broken: {problem}") from problem

    def _send(self, request: Any, expect_response: bool) -> Any:
        if self._writer is None or not expect_response or not isinstance(request, ProduceRequest):
            return super().send(request, expect_response)
        prepared = request.prepare(self._versions)
        if prepared.API_VERSION not in _VERSIONS:
            return super().send(request, expect_response)
        body = list(pieces(prepared))
        # All that the connection does besides is its own: only its writer gets to see a body.
        prepared.encode = bytes
        writer = self._writer
        self._writer = flat = _Writer(writer, body)
        try:
            return super().send(_Prepared(prepared), expect_response)
        finally:
            if self._writer is flat:  # and not None, after a failure
                self._writer = writer


class _Prepared:
    """A request that needs no preparation any more."""

    def __init__(self, prepared: Any) -> None:
        self._prepared = prepared

    def prepare(self, _versions: Any) -> Any:
        return self._prepared


class _Writer:
    """Puts the body behind the length and the header that the connection writes."""

    def __init__(self, writer: Any, body: list[Piece]) -> None:
        self._writer, self._body = writer, body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def write(self, head: bytes) -> None:
        size = len(head) - 4 + sum(map(len, self._body))
        self._writer.writelines([struct.pack(">i", size) + head[4:], *self._body])


def pieces(prepared: Any) -> Iterator[Piece]:
    """A prepared produce request's body; the small parts between record batches are joined."""
    head = [_TEXT.encode(prepared.transactional_id), Int16.encode(prepared.required_acks)]
    head += [Int32.encode(prepared.timeout), Int32.encode(len(prepared.topics))]
    for topic, partitions in prepared.topics:
        head += [_TEXT.encode(topic), Int32.encode(len(partitions))]
        for partition, batch in partitions:
            parts: Iterable[Piece] = batch if isinstance(batch, list) else [batch]
            head += [Int32.encode(partition), Int32.encode(sum(map(len, parts)))]
            yield b"".join(head)
            yield from parts
            head = []
    if head:
        yield b"".join(head)
