"""How fast a process drains a preloaded topic: its committed offsets and its CPU time, sampled from outside."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass

import psutil

from tests.bench.cluster import Offsets

_SAMPLE_SECONDS = 0.025
_START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Drain:
    """How a drain went.

    events in seconds of wall time; cpu: seconds of the process, all threads; start: seconds from the process's
    start to its first progress.
    """

    events: int
    seconds: float
    cpu: float
    start: float
    rss_mb: float

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU an event."""
        return 1e6 * self.cpu / self.events


class Failed(Exception):
    """The measured process ended, or stood still."""


def drain(
    process: subprocess.Popen[bytes], offsets: Offsets, group: str, first: int, end: int, *, warm: int, seconds: float
) -> Drain:
    """Watch ``process`` commit from offset sum ``first`` to ``end``.

    The clock starts at the first commit at or beyond ``first + warm`` and stops at the end, or, when more than
    ``seconds`` have gone by, at the last commit seen.
    """
    watched = psutil.Process(process.pid)
    launched = time.monotonic()
    began: tuple[float, float, int] | None = None
    last: tuple[float, float, int] | None = None
    while True:
        now, at = time.monotonic(), offsets.committed(group)
        if process.poll() is not None:
            raise Failed(f"{group} ended with code {process.returncode}")
        if at > first + warm:
            sample = (now, _cpu(watched), at)
            began = began or sample
            if last is None or at > last[2]:
                last = sample
            if at >= end or now - began[0] > seconds:
                break
        elif now - launched > _START_SECONDS:
            raise Failed(f"{group} made no progress in {_START_SECONDS:.0f} s")
        time.sleep(_SAMPLE_SECONDS)
    events = last[2] - began[2]
    if not events:
        raise Failed(f"{group} was done in one commit; use more events")
    rss = watched.memory_info().rss / 2**20
    return Drain(events, last[0] - began[0], last[1] - began[1], began[0] - launched, rss)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def stop(process: subprocess.Popen[bytes], seconds: float = 20.0) -> None:
    """End a process that we started, politely first."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
