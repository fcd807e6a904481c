"""A quick measurement of this worker alone.

python -m tests.bench.ours --users 50000 --events 200000 --rounds 3
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ops.broker.local import LocalBroker
from ops.broker.ports import free_ports
from tests.bench.audit import audit
from tests.bench.cluster import ROOT, prepare
from tests.bench.lines import contending, ours
from tests.bench.scrape import scrape
from tests.bench.world import World

HEAP = "1536m"
LOGS = ROOT / ".cache" / "bench"


def main(arguments: Sequence[str] | None = None) -> None:
    """One process, several rounds; prints each with its stage table, then audits the vectors."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ours", description=__doc__)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=200_000, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0, help="stop a round's clock after this long")
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--plain", action="store_true", help="clicks alone, each sent once")
    parser.add_argument("--profile", type=Path, help="write a cProfile of the worker's main thread here")
    chosen = parser.parse_args(arguments)
    world = World(
        users=chosen.users,
        items=chosen.items,
        dimension=chosen.dimension,
        history=chosen.history,
        plain=chosen.plain,
    )
    with LocalBroker(heap=HEAP, full_jit=True) as broker, tempfile.TemporaryDirectory() as state:
        servers = broker.bootstrap_servers
        print(f"prepared {world.users} users in {prepare(servers, world):.1f} s", flush=True)
        _rounds(servers, world, Path(state), chosen)
        print(*audit(servers, world, 1e-6).lines(), sep="\n")


def _rounds(servers: str, world: World, state: Path, chosen: argparse.Namespace) -> None:
    (port,) = free_ports(1)
    line = ours(servers, state, LOGS, port=port, profile=chosen.profile)
    with contending(line, servers, world.partitions) as worker:
        worker.warm_up(list(world.events(chosen.events // 4, 0)))
        print(f"worker {worker.process.pid} is warm", flush=True)
        for number in range(1, chosen.rounds + 1):
            messages = list(world.events(chosen.events, number))
            before = scrape(port)
            drain = worker.turn(messages, chosen.seconds)
            seen = scrape(port).since(before)
            print(
                f"round {number}: {drain.rate:8.0f} events/s   {drain.cpu_us:6.2f} us CPU/event   "
                f"{drain.events} events in {drain.seconds:.2f} s   RSS {drain.rss_mb:.0f} MB",
                flush=True,
            )
            print(*seen.table(drain.seconds, drain.cpu), sep="\n", flush=True)
            worker.catch_up()
        print("outcomes", seen.outcomes)


if __name__ == "__main__":
    main()
