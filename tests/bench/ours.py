"""Our worker through its own entry, `python -m streamer run --role users`; alone it is a quick measurement.

python -m tests.bench.ours --users 50000 --events 200000 --seconds 20
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from ops.broker.local import LocalBroker
from ops.broker.ports import free_ports
from tests.bench.cluster import ROOT, Offsets, environment, prepare, publish, wait_for
from tests.bench.drain import Drain, drain, stop
from tests.bench.scrape import Scrape, is_ready, scrape
from tests.bench.world import World

GROUP = "factors-users"
_HEAP = "1536m"


@contextmanager
def running(
    servers: str,
    state: Path,
    *,
    port: int = 0,
    profile: Path | None = None,
    log: Path | None = None,
    **settings: str | int,
) -> Iterator[subprocess.Popen[bytes]]:
    """A users worker; with ``profile`` its main thread runs under cProfile, which then writes that file."""
    under = ["-m", "cProfile", "-o", str(profile)] if profile else []
    command = [sys.executable, *under, "-m", "streamer", "run", "--role", "users"]
    env = environment(servers, state__dir=str(state), http__port=port, **settings)
    with (log or Path("/dev/null")).open("ab") as out:
        process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=out, stderr=out)
        try:
            yield process
        finally:
            stop(process, 60.0)


def measure(
    servers: str,
    world: World,
    state: Path,
    *,
    warm: int,
    seconds: float = 1e9,
    profile: Path | None = None,
    log: Path | None = None,
) -> tuple[Drain, Scrape]:
    """Start a worker on what waits in `interactions`, drain it, stop it."""
    offsets = Offsets(servers, "interactions", world.partitions)
    (port,) = free_ports(1)
    try:
        first, end = offsets.committed(GROUP), offsets.end()
        with running(servers, state, port=port, profile=profile, log=log) as process:
            result = drain(process, offsets, GROUP, first, end, warm=warm, seconds=seconds)
            seen = scrape(port)
    finally:
        offsets.close()
    return result, seen


def watch_for(process: subprocess.Popen[bytes], port: int, seconds: float) -> tuple[Scrape, float, float]:
    """Let a worker run; what it did meanwhile, the wall time and its CPU time."""
    watched = psutil.Process(process.pid)

    def cpu() -> float:
        times = watched.cpu_times()
        return float(times.user + times.system)

    before, cpu_before, started = scrape(port), cpu(), time.monotonic()
    time.sleep(seconds)
    wall, spent = time.monotonic() - started, cpu() - cpu_before
    return scrape(port).since(before), wall, spent


def main(arguments: Sequence[str] | None = None) -> None:
    """One process, several rounds; prints each, with the stage table of the whole run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ours", description=__doc__)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=200_000, help="preloaded for each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="stop a round's clock after this long")
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--plain", action="store_true", help="clicks alone, each sent once")
    parser.add_argument("--profile", type=Path, help="write a cProfile of the worker's main thread here")
    parser.add_argument("--log", type=Path, default=ROOT / ".cache/bench/worker.log")
    parser.add_argument("--hold", action="store_true", help="print the worker's pid and wait before each round")
    chosen = parser.parse_args(arguments)
    world = World(
        users=chosen.users,
        items=chosen.items,
        dimension=chosen.dimension,
        history=chosen.history,
        plain=chosen.plain,
    )
    chosen.log.parent.mkdir(parents=True, exist_ok=True)
    with LocalBroker(heap=_HEAP, full_jit=True) as broker, tempfile.TemporaryDirectory() as state:
        servers = broker.bootstrap_servers
        print(f"prepared {world.users} users in {prepare(servers, world):.1f} s", flush=True)
        _rounds(servers, world, Path(state), chosen)


def _rounds(servers: str, world: World, state: Path, chosen: argparse.Namespace) -> None:
    offsets = Offsets(servers, "interactions", world.partitions)
    (port,) = free_ports(1)
    with running(servers, state, port=port, profile=chosen.profile, log=chosen.log) as process:
        wait_for("the worker is ready", lambda: process.poll() is not None or is_ready(port), 120)
        print(f"worker {process.pid} is ready at port {port}", flush=True)
        at = offsets.committed(GROUP)
        for number in range(chosen.rounds + 1):
            # The worker sleeps while events are made, so that it finds them all waiting.
            process.send_signal(19)
            at += publish(servers, "interactions", world.events(chosen.events, number))
            before = None
            process.send_signal(18)
            before = scrape(port)
            result = drain(process, offsets, GROUP, at - chosen.events, at, warm=0, seconds=chosen.seconds)
            wait_for("the rest", lambda goal=at: offsets.committed(GROUP) >= goal, 600)
            seen = scrape(port).since(before)
            print(
                f"round {number}{' (warm-up)' if not number else ''}: {result.rate:8.0f} events/s   "
                f"{result.cpu_us:6.2f} us CPU/event   {result.events} events in {result.seconds:.2f} s   "
                f"RSS {result.rss_mb:.0f} MB",
                flush=True,
            )
            scale = seen.records / result.events
            print(*seen.table(result.seconds * scale, result.cpu * scale), sep="\n", flush=True)
        print("outcomes", seen.outcomes)
    offsets.close()


if __name__ == "__main__":
    main()
