"""A client that is closed while a request waits to be written leaves no socket behind."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest
from kafka.net import compat
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaTCPTransport

from streamer.kafka_sockets import ThoroughSelector, install

_MORE_THAN_BUFFERS_HOLD = 64 << 20


def closed_while_writing(selector: Any) -> socket.socket:
    """Our end of a connection whose other end reads nothing, after its client was closed in the midst of a request."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    net = selector()
    transport = KafkaTCPTransport(net, ours)
    net.start()
    net.call_soon_threadsafe(lambda: transport.write(bytes(_MORE_THAN_BUFFERS_HOLD)))
    deadline = time.monotonic() + 10
    theirs.recv(1, socket.MSG_PEEK)
    while not transport._write_buffer:  # what was not taken is back in the queue: the loop waits until it can go on
        assert time.monotonic() < deadline
        time.sleep(0.01)
    transport.close()
    net.close()
    theirs.close()
    return ours


def test_the_socket_is_closed() -> None:
    assert closed_while_writing(ThoroughSelector).fileno() == -1


def test_kafka_python_itself_leaves_it_open() -> None:
    """When this fails, kafka-python has mended it: `streamer/kafka_sockets.py` can go."""
    left = closed_while_writing(NetworkSelector)
    assert left.fileno() != -1
    left.close()


def test_clients_are_made_with_it() -> None:
    install()
    client = compat.KafkaNetClient()
    assert isinstance(client._net, ThoroughSelector)
    client.close()


def test_closing_twice_is_no_error() -> None:
    net = ThoroughSelector()
    net.close()
    net.close()


@pytest.mark.parametrize("started", [True, False])
def test_a_socket_that_somebody_waits_for_is_closed(started: bool) -> None:
    """With the loop in its own thread, and driven by the caller."""
    net = ThoroughSelector()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def wait() -> None:
        await net.wait_read(ours)

    if started:
        net.start()
    net.call_soon_threadsafe(wait)
    if not started:
        net.poll(timeout_ms=10)
    net.close()
    theirs.close()
    assert ours.fileno() == -1
