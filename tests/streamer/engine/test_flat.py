"""What the socket gets is what aiokafka would have sent."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
import uvloop
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest

from streamer.engine.flat import FlatConnection, pieces

BATCHES = [[b"one", b"", b"batch"], [bytes(range(256)) * 9], [b"x"]]


def request(batches: list[Any]) -> ProduceRequest:
    first, second, third = batches
    return ProduceRequest(
        required_acks=-1,
        timeout=40_000,
        topics=[("rows", [(3, first)]), ("vectors-ü", [(0, second), (7, third)])],
        transactional_id="app-users-3",
    )


@pytest.mark.parametrize("version", range(3, 8))
def test_the_pieces_make_the_same_bytes(version: int) -> None:
    flat = request(BATCHES).prepare({0: (version, version)})
    whole = request([b"".join(batch) for batch in BATCHES]).prepare({0: (version, version)})
    assert version == flat.API_VERSION
    assert b"".join(pieces(flat)) == whole.encode()


class _Sink(io.BytesIO):
    """A writer that keeps what it gets."""


async def test_a_connection_writes_the_same_bytes() -> None:
    """Length and header included; and what is no produce request goes its usual way."""
    written = []
    for batches in (BATCHES, [b"".join(batch) for batch in BATCHES]):
        sink = _Sink()
        connection = FlatConnection("nowhere", 0, client_id="me", request_timeout_ms=10)
        connection._versions = {0: (7, 7)}
        connection._writer = sink
        kind = FlatConnection if batches is BATCHES else FlatConnection.__mro__[1]
        waiting = kind.send(connection, request(batches))
        waiting.close()
        assert connection._writer is sink
        assert len(connection._requests) == 1
        connection._writer = None
        written.append(sink.getvalue())
    assert written[0] == written[1]


def test_a_socket_that_uvloop_has_closed_is_a_broken_connection() -> None:
    """And no RuntimeError, which would end aiokafka's metadata task for good and leave its consumer waiting for it."""

    async def send_on_a_closed_socket() -> None:
        server = await asyncio.start_server(lambda _, back: back.close(), "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.transport.abort()
        await asyncio.sleep(0.05)
        connection = FlatConnection("nowhere", 0, client_id="me", request_timeout_ms=10)
        connection._versions = {0: (7, 7), 3: (1, 1)}
        for what in (MetadataRequest([]), request(BATCHES)):
            connection._reader, connection._writer = object(), writer
            connection._read_task = asyncio.get_running_loop().create_future()
            with pytest.raises(KafkaConnectionError):
                connection.send(what)
            assert not connection.connected()
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(send_on_a_closed_socket())
