"""Ends that libraries would hold up: a consumer's own cancellation, a stray one, a log that nobody reads."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from streamer.engine.ending import stop_consumer
from streamer.engine.partition import Partition
from tests.chaos.processes import CHECKOUT


class _Consumer:
    """As aiokafka's when a fetch waits for a broker: its stop ends in a cancellation of its own making."""

    def __init__(self) -> None:
        self.closed = False
        self._client = SimpleNamespace(close=self._close)

    async def _close(self) -> None:
        self.closed = True

    async def stop(self) -> None:
        fetch = asyncio.ensure_future(asyncio.sleep(60))
        await asyncio.sleep(0)
        fetch.cancel()
        await fetch


async def test_a_consumers_own_cancellation_is_not_ours() -> None:
    """Whoever stops it goes on, and its connections are closed."""
    consumer: Any = _Consumer()
    with pytest.raises(asyncio.CancelledError):
        await consumer.stop()
    await stop_consumer(consumer)
    assert consumer.closed


class _Strayed(Partition):
    """Meets a cancellation that nobody asked for, then lives."""

    opened = 0

    async def _open(self) -> None:
        self.opened += 1
        if self.opened == 1:
            raise asyncio.CancelledError

    async def _process(self) -> None:
        await asyncio.sleep(60)

    async def _shut(self) -> None:
        pass


async def test_a_stray_cancellation_does_not_end_a_partition() -> None:
    """It opens anew; its own release still ends it."""
    observer: Any = SimpleNamespace(state=lambda *_: None)
    nobody: Any = None
    role: Any = SimpleNamespace(name="users", max_batch_events=1, step=None)
    partition = _Strayed(TopicPartition("t", 0), role, nobody, observer, nobody)
    partition.open()
    assert partition._task is not None
    await asyncio.wait([partition._task], timeout=1.0)
    assert partition.opened == 2
    async with asyncio.timeout(5):
        await partition.release()


_STUCK = """
import os, sys, time
from streamer import app
from streamer.settings import Settings
app._STOP_SECONDS = 2.0

async def stuck(self):
    sys.stdout.write("ready\\n"); sys.stdout.flush()
    while True:
        sys.stdout.write("x" * 65536); sys.stdout.flush()

app.Worker._check_topics = stuck
app.run_worker(Settings(), "users")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.slow
def test_a_worker_whose_log_nobody_reads_ends_in_time() -> None:
    """The loop itself stands still in a write; a signal and its bound still count."""
    worker = subprocess.Popen(
        [sys.executable, "-c", _STUCK], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ
    )
    assert worker.stdout is not None
    try:
        while b"ready" not in worker.stdout.readline():
            pass
        time.sleep(0.5)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 3
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()
