"""The lines that are compared: what each runs, where it reads, and how it is put to work on events that wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ops.broker import leash
from tests.bench.cluster import ROOT, Offsets, Placed, environment, publish, wait_for

_SAMPLE_SECONDS = 0.025
_STALL_SECONDS = 60.0
_START_SECONDS = 180.0


class Failed(Exception):
    """The measured process ended, or stood still."""


@dataclass(frozen=True, slots=True)
class Line:
    """One contender: the arguments of its Python process, its consumer group and its topic (without the prefix).

    slack: how far from the end its last commit may stay. Stock Faust leaves the last event of a partition uncommitted
    when it is the only one since the commit before.
    """

    name: str
    arguments: Sequence[str]
    group: str
    topic: str
    env: Mapping[str, str]
    log: Path
    slack: int = 0

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Its process, stopped politely at the end."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            process = subprocess.Popen(leashed(self.arguments), cwd=ROOT, env=dict(self.env), stdout=out, stderr=out)
            try:
                yield process
            finally:
                stop(process)


@dataclass(frozen=True, slots=True)
class Drain:
    """One turn of a line: events in seconds of wall time; cpu: seconds of its process; rss_mb: memory at the end."""

    events: int
    seconds: float
    cpu: float
    rss_mb: float

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU an event."""
        return 1e6 * self.cpu / self.events


@dataclass(slots=True)
class Contender:
    """A line at work; ``at`` is the sum of the offsets up to which it has been given events."""

    line: Line
    process: subprocess.Popen[bytes]
    servers: str
    offsets: Offsets
    at: int = 0
    drains: list[Drain] = field(default_factory=list)

    def warm_up(self, messages: Sequence[Placed]) -> None:
        """Give it events while it may still be starting, and wait until it has committed them."""
        self.at += publish(self.servers, self.line.topic, messages)
        self.catch_up()

    def turn(self, messages: Sequence[Placed], seconds: float = 1e9) -> Drain:
        """Freeze it, let the events pile up, let it go on, and watch it commit them all.

        The clock starts before it reads the first event and stops at the commit of the last, or, when more than
        ``seconds`` have gone by, at the last commit seen: no part of the work is outside.
        """
        self.process.send_signal(signal.SIGSTOP)
        first = self.at
        self.at += publish(self.servers, self.line.topic, messages)
        watched = psutil.Process(self.process.pid)
        cpu, started = cpu_seconds(watched), time.monotonic()
        self.process.send_signal(signal.SIGCONT)
        done, last, spent = first, started, 0.0
        while done < self.at - self.line.slack and time.monotonic() - started < seconds:
            time.sleep(_SAMPLE_SECONDS)
            self._alive()
            committed = self.offsets.committed(self.line.group)
            if committed > done:
                done, last, spent = committed, time.monotonic(), cpu_seconds(watched) - cpu
            elif time.monotonic() - last > _STALL_SECONDS:
                raise Failed(f"{self.line.name} stands still at {done} of {self.at}: see {self.line.log}")
        if done == first:
            raise Failed(f"{self.line.name} committed nothing in {seconds:.0f} s")
        drain = Drain(done - first, last - started, spent, watched.memory_info().rss / 2**20)
        self.drains.append(drain)
        return drain

    def catch_up(self, seconds: float = _START_SECONDS) -> None:
        """Wait until all that it was given is committed."""
        wait_for(f"{self.line.name} commits the rest", self._is_done, seconds)

    def cpu(self) -> float:
        """CPU seconds of its process so far."""
        return cpu_seconds(psutil.Process(self.process.pid))

    def _is_done(self) -> bool:
        self._alive()
        return self.offsets.committed(self.line.group) >= self.at - self.line.slack

    def _alive(self) -> None:
        if self.process.poll() is not None:
            raise Failed(f"{self.line.name} ended with code {self.process.returncode}: see {self.line.log}")


@contextmanager
def contending(line: Line, servers: str, partitions: int) -> Iterator[Contender]:
    """A line started, its offsets watched."""
    offsets = Offsets(servers, line.topic, partitions)
    try:
        with line.running() as process:
            yield Contender(line, process, servers, offsets, at=offsets.end())
    finally:
        offsets.close()


def ours(
    servers: str, state: Path, logs: Path, *, port: int, profile: Path | None = None, **settings: str | int
) -> Line:
    """This worker by its own entry; with ``profile`` its main thread runs under cProfile, which writes that file.

    Its cache holds the rows of 200,000 users at hand, as one sized for its active users does.
    """
    under = ["-m", "cProfile", "-o", str(profile)] if profile else []
    return Line(
        name="this worker",
        arguments=[*under, "-m", "streamer", "run", "--role", "users"],
        group="factors-users",
        topic="interactions",
        env=environment(
            servers, **{"state__dir": str(state / "ours"), "http__port": port, "state__cache_mb": 1024, **settings}
        ),
        log=logs / "worker.log",
    )


STOCK_TOPICS = {
    "factors.interactions-stock": "delete",
    "bench.stock-out": "delete",
    "bench-stock-stock-state-changelog": "compact",
}


def stock(servers: str, state: Path, logs: Path, partitions: int, **options: str | int | bool) -> Line:
    """The stock Faust agent of `tests.bench.stock`; ``options`` change that app's settings."""
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "BENCH_SERVERS": servers,
        "BENCH_STATE": str(state / "stock"),
        "BENCH_PARTITIONS": str(partitions),
        **{f"BENCH_STOCK_{name.upper()}": str(value) for name, value in options.items()},
    }
    loop = str(options.get("loop", "uvloop"))
    return Line(
        name="stock Faust",
        arguments=["-m", "tests.bench.stock", "--loop", loop, "worker", "--without-web", "-l", "warn"],
        group="bench-stock",
        topic="interactions-stock",
        env=env,
        log=logs / "stock.log",
        slack=partitions,
    )


BARE_TOPICS = {"factors.interactions-bare": "delete"}


def bare(servers: str, logs: Path) -> Line:
    """The loop of `tests.bench.bare`."""
    topic = "interactions-bare"
    return Line(
        name="bare aiokafka loop",
        arguments=["-m", "tests.bench.bare", servers, f"factors.{topic}"],
        group="bench-bare",
        topic=topic,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        log=logs / "bare.log",
    )


def leashed(arguments: Sequence[str]) -> list[str]:
    """A command for this Python with these arguments, which ends when this process does, however it does."""
    assert leash.__file__ is not None
    return [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), sys.executable, *arguments]


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process so far, all its threads, user and system."""
    times = process.cpu_times()
    return float(times.user + times.system)


def stop(process: subprocess.Popen[bytes], seconds: float = 60.0) -> None:
    """End a process that we started, politely first."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
