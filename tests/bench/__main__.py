"""``make bench``: this worker beside a stock Faust agent and a bare loop; one run, one machine, the same events.

Each repeat writes events first; then each of the three in turn starts, reads what waits for it, and is stopped.
The clock runs from the first commit after a warm-up to the last. Everything shares the machine's cores with the broker.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from kafka import KafkaAdminClient

from ops.broker.local import LocalBroker
from ops.broker.ports import free_ports
from ops.demo.send import Sender
from ops.demo.story import latencies, notes
from tests.bench import bare, stock
from tests.bench.cluster import PREFIX, ROOT, Offsets, environment, prepare, publish, wait_for
from tests.bench.drain import Drain, Failed, drain, stop
from tests.bench.ours import GROUP, measure, running
from tests.bench.scrape import Scrape, is_ready
from tests.bench.world import World

_OUT = ROOT / ".cache" / "bench"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--events", type=int, default=200_000, help="of each repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="clock of one repeat at most")
    parser.add_argument("--rates", type=float, nargs="*", default=[2_000.0, 10_000.0], help="events/s for the latency")
    chosen = parser.parse_args(arguments)
    _OUT.mkdir(parents=True, exist_ok=True)
    world = World(users=chosen.users, plain=True)
    with LocalBroker(heap="1536m", full_jit=True) as broker, tempfile.TemporaryDirectory() as state:
        servers = broker.bootstrap_servers
        print(f"{world.users:,} users with {world.history} entries each: prepared in {prepare(servers, world):.0f} s")
        _stock_topics(servers, world.partitions)
        lines, last = _compare(servers, world, Path(state), chosen)
        _report(lines, last)
        latency = {str(int(rate)): _latency(servers, world, Path(state), rate) for rate in chosen.rates}
        error = _audit(servers)
    figures = {
        "events_per_second": {name: [one.rate for one in drains] for name, drains in lines.items()},
        "cpu_us_per_event": {name: [one.cpu_us for one in drains] for name, drains in lines.items()},
        "latency_ms": latency,
        "audit": error,
        "arguments": vars(chosen),
    }
    (_OUT / "bench.json").write_text(json.dumps(figures, indent=1))


def _stock_topics(servers: str, partitions: int) -> None:
    wanted = {
        name: {"num_partitions": partitions, "replication_factor": 1, "configs": {"cleanup.policy": cleanup}}
        for name, cleanup in (("bench.stock-out", "delete"), (f"{stock.GROUP}-stock-state-changelog", "compact"))
    }
    admin = KafkaAdminClient(bootstrap_servers=servers)
    admin.create_topics(wanted)
    admin.close()


def _compare(
    servers: str, world: World, state: Path, chosen: argparse.Namespace
) -> tuple[dict[str, list[Drain]], Scrape | None]:
    """The three in turn, repeat by repeat; the first repeat only warms up."""
    lines: dict[str, list[Drain]] = {"stock Faust": [], "this worker": [], "bare aiokafka loop": []}
    last: Scrape | None = None
    warm = chosen.events // 10
    stock_env = {
        "BENCH_SERVERS": servers,
        "BENCH_STATE": str(state / "stock"),
        "BENCH_PARTITIONS": str(world.partitions),
    }
    others = {
        "stock Faust": (stock.GROUP, ["-m", "tests.bench.stock", "worker", "-l", "error"], stock_env),
        "bare aiokafka loop": (bare.GROUP, ["-m", "tests.bench.bare", servers], {}),
    }
    for repeat in range(chosen.repeats + 1):
        publish(servers, "interactions", world.events(chosen.events, repeat))
        for name, drains in lines.items():
            if name in others:
                done = _other(servers, world, *others[name], warm=warm // 10, seconds=chosen.seconds)
            else:
                done, last = measure(servers, world, state, warm=warm, seconds=chosen.seconds, log=_OUT / "worker.log")
            print(
                f"repeat {repeat}{' (warm-up)' if not repeat else ''}: {name:20} {done.rate:10,.0f} events/s",
                flush=True,
            )
            if repeat:
                drains.append(done)
    return lines, last


def _other(
    servers: str, world: World, group: str, command: list[str], env: dict[str, str], *, warm: int, seconds: float
) -> Drain:
    offsets = Offsets(servers, "interactions", world.partitions)
    with (_OUT / f"{group}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            stdout=log,
            stderr=log,
        )
    try:
        return drain(process, offsets, group, offsets.committed(group), offsets.end(), warm=warm, seconds=seconds)
    finally:
        stop(process)
        offsets.close()


def _report(lines: dict[str, list[Drain]], last: Scrape | None) -> None:
    base = [one.rate for one in lines["stock Faust"]]
    print(
        f"\n{'':20} {'events/s: median':>17} {'min':>9} {'max':>9} {'CPU us/event':>13} "
        f"{'x stock: median':>16} (min-max)"
    )
    for name, drains in lines.items():
        rates = [one.rate for one in drains]
        ratios = sorted(rate / other for rate, other in zip(rates, base, strict=True))
        print(
            f"{name:20} {statistics.median(rates):17,.0f} {min(rates):9,.0f} {max(rates):9,.0f} "
            f"{statistics.median(one.cpu_us for one in drains):13.1f} {statistics.median(ratios):16.1f} "
            f"({ratios[0]:.1f}-{ratios[-1]:.1f})"
        )
    if last is not None:
        mine = lines["this worker"][-1]
        print("\n".join(last.table(mine.seconds * last.records / max(mine.events, 1), mine.cpu)))


def _latency(servers: str, world: World, state: Path, rate: float) -> dict[str, float]:
    """Event to vector at a steady rate: a sender, the worker, and a read_committed consumer, each its own process."""
    (port,) = free_ports(1)
    arrived = state / f"arrived-{int(rate)}.ndjson"
    offsets = Offsets(servers, "interactions", world.partitions)
    with running(servers, state, port=port, log=_OUT / "worker.log") as process:
        wait_for("the worker is ready", lambda: process.poll() is not None or is_ready(port), 120)
        wait_for("nothing waits", lambda: offsets.committed(GROUP) >= offsets.end(), 600)
        watcher = subprocess.Popen(
            [sys.executable, "-m", "ops.demo.measure", servers, PREFIX, str(arrived)],
            cwd=ROOT,
            env=environment(servers),
        )
        sender = Sender(servers, f"{PREFIX}interactions")
        try:
            wait_for("the measuring consumer", lambda: bool(notes(arrived)), 30)
            events = [json.loads(value) for _, (_, value) in world.events(int(rate * 10), 1000 + int(rate))]
            took = sender.send(events, rate)
            with suppress(TimeoutError):
                wait_for("the last vector", lambda: offsets.committed(GROUP) >= offsets.end(), 30)
            time.sleep(1.0)
        finally:
            sender.close()
            stop(watcher)
    offsets.close()
    found = latencies(arrived, sender.sent)
    p50, p99 = (float(value) for value in np.percentile(found, [50, 99]))
    sent = len(events) / took
    print(f"at {rate:,.0f} events/s (sent {sent:,.0f}/s): event to vector p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    return {"p50": p50, "p99": p99, "sent_per_second": sent, "vectors": float(len(found))}


def _audit(servers: str) -> object:
    """The product's own audit: published vectors against a fresh exact solve."""
    done = subprocess.run(
        [sys.executable, "-m", "streamer", "audit", "--sample", "1000", "--json"],
        cwd=ROOT,
        env=environment(servers),
        capture_output=True,
        text=True,
        check=False,
    )
    print(f"audit: {done.stdout.strip() or done.stderr.strip()}")
    with suppress(json.JSONDecodeError):
        return json.loads(done.stdout)
    return None


if __name__ == "__main__":
    try:
        main()
    except Failed as problem:
        sys.exit(str(problem))
