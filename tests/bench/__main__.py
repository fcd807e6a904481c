"""`make bench`: this worker beside a stock Faust agent and a bare loop; one run, one machine, the same events.

Three processes live through the whole run, each with its own consumer group and its own topic. In each repeat the same
events are written to the three topics, and the three take turns: one is frozen while its events pile up, then let go,
and the clock runs until it has committed the last of them. The order of the turns rotates. The first round warms up.

Then an audit of the vectors, and the time from an event to its vector at steady loads, each offered twice: the first
warms up. With --memory (alone) the resident memory while users stream through. Figures also go to .cache/bench/.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ops.broker import BrokerUnavailableError
from ops.broker.local import LocalBroker
from ops.broker.ports import free_ports
from tests.bench import latency, memory, report
from tests.bench.audit import audit
from tests.bench.cluster import ROOT, create_other_topics, log_bytes, prepare
from tests.bench.lines import BARE_TOPICS, STOCK_TOPICS, Contender, Failed, Line, bare, contending, ours, stock
from tests.bench.scrape import scrape
from tests.bench.world import World

OUT = ROOT / ".cache" / "bench"
HEAP = "1536m"
STOCK = "stock Faust"
_OUTPUTS = ("user-state", "user-factors", "item-signals", "dead-letters")
_VARIANTS: tuple[dict[str, str | int | bool], ...] = (
    {},
    {"send": "soon"},
    {"loop": "aio"},
    {"buffer": 4096},
    {"buffer": 262_144},
    {"batch": 16_384},
    {"linger": "0.005"},
    {"commit": "2.8"},
    {"cython": False},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the figures as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--events", type=int, default=160_000, help="of each line in each repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="a turn's clock at most; the rest is not timed")
    parser.add_argument("--rates", type=float, nargs="*", default=[2_000.0, 10_000.0], help="events/s for the latency")
    parser.add_argument("--load-seconds", type=float, default=15.0, help="how long each rate lasts")
    parser.add_argument("--plain", action="store_true", help="clicks alone, each sent once, instead of a mixture")
    parser.add_argument("--quick", action="store_true", help="a look: 20,000 users, 2 repeats of 40,000 events")
    parser.add_argument("--memory", action="store_true", help="the resident memory alone")
    parser.add_argument("--stock", action="store_true", help="settings of stock Faust against each other, alone")
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.users, chosen.events, chosen.repeats, chosen.load_seconds = 20_000, 40_000, 2, 6.0
    OUT.mkdir(parents=True, exist_ok=True)
    what = "memory" if chosen.memory else "stock" if chosen.stock else "bench"
    with LocalBroker(heap=HEAP, full_jit=True) as broker, tempfile.TemporaryDirectory() as state:
        print(report.conditions(), f"broker: {broker.description}, heap {HEAP}, full JIT", sep="\n", flush=True)
        run = {"memory": _memory, "stock": _stock, "bench": _bench}[what]
        figures = run(broker, Path(state), chosen)
    command = shlex.join(["python", "-m", "tests.bench", *(sys.argv[1:] if arguments is None else arguments)])
    kept = {"command": command, "conditions": report.conditions(), "arguments": vars(chosen), **figures}
    (OUT / f"{what}.json").write_text(json.dumps(kept, indent=1))
    print(f"figures: {(OUT / what).relative_to(ROOT)}.json   command: {command}")


def _bench(broker: LocalBroker, state: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    world = World(users=chosen.users, plain=chosen.plain)
    servers = broker.bootstrap_servers
    took = prepare(servers, world)
    create_other_topics(servers, STOCK_TOPICS | BARE_TOPICS, world.partitions)
    print(
        f"{world.users:,} users with some {world.history} entries, {world.items:,} items, k = {world.dimension}: ",
        end="",
    )
    print(f"written in {took:.0f} s", flush=True)
    (port,) = free_ports(1)
    lines = (
        stock(servers, state, OUT, world.partitions),
        ours(servers, state, OUT, port=port),
        bare(servers, OUT),
    )
    with ExitStack() as stack:
        contenders = [stack.enter_context(contending(line, servers, world.partitions)) for line in lines]
        worker = contenders[1]
        compared = _compare(world, contenders, broker, port, chosen)
        drains = {one.line.name: one.drains for one in contenders}
        print("", *report.table(drains, STOCK), "", *compared.pop("lines"), sep="\n", flush=True)
        audited = audit(servers, world, 1e-6)
        print(*audited.lines(), sep="\n", flush=True)
        for other in (contenders[0], contenders[2]):
            other.process.terminate()
        loads = []
        print("\nfrom sending an event to its vector at a read_committed consumer:")
        for number, rate in enumerate(chosen.rates):
            # Twice, and the first does not count: the broker's code for many small transactions is compiled meanwhile.
            for round_ in (1_000 + 2 * number, 1_001 + 2 * number):
                load = latency.measure(worker, servers, world, rate, chosen.load_seconds, round_, state)
            print(load.line(), flush=True)
            loads.append(asdict(load))
    return {
        "lines": report.figures(drains, STOCK),
        "commands": {line.name: _command(line) for line in lines},
        "audit": asdict(audited),
        "latency": loads,
        **compared,
    }


def _compare(
    world: World, contenders: Sequence[Contender], broker: LocalBroker, port: int, chosen: argparse.Namespace
) -> dict[str, Any]:
    """The turns; returns what our own took beside: stages, bytes."""
    warm = list(world.events(chosen.events // 4, 0))
    for contender in contenders:
        contender.warm_up(warm)
    before, written = scrape(port), _written(broker)
    for repeat in range(1, chosen.repeats + 1):
        messages = list(world.events(chosen.events, repeat))
        first = repeat % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            drain = contender.turn(messages, chosen.seconds)
            print(f"repeat {repeat}: {contender.line.name:20}{drain.rate:10,.0f} events/s", flush=True)
            contender.catch_up()
    seen = scrape(port).since(before)
    bytes_out = {topic: (after - written[topic]) / seen.records for topic, after in _written(broker).items()}
    bytes_in = sum(len(key) + len(value) for _, (key, value) in messages) / len(messages)
    mine = contenders[1].drains
    wall, cpu = sum(drain.seconds for drain in mine), sum(drain.cpu for drain in mine)
    listed = ", ".join(f"{topic} {size:.0f}" for topic, size in bytes_out.items() if size)
    return {
        "lines": [
            "where this worker's time goes, over all repeats:",
            *seen.table(wall, cpu),
            f"bytes per event: in {bytes_in:.0f}; out {sum(bytes_out.values()):.0f} ({listed})",
            "outcomes: " + ", ".join(f"{name} {count:,.0f}" for name, count in seen.outcomes.items() if count),
        ],
        "stages_us_per_event": {stage: 1e6 * spent / seen.records for stage, spent in seen.seconds.items()},
        "bytes_in_per_event": bytes_in,
        "bytes_out_per_event": bytes_out,
        "outcomes": seen.outcomes,
    }


def _written(broker: LocalBroker) -> dict[str, int]:
    return {topic: log_bytes(broker.data, topic) for topic in _OUTPUTS}


def _command(line: Line) -> str:
    shown = {name: value for name, value in line.env.items() if name.startswith(("FACTORS_", "BENCH_"))}
    return shlex.join([*(f"{name}={value}" for name, value in sorted(shown.items())), "python", *line.arguments])


def _memory(broker: LocalBroker, state: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    world = World(users=chosen.users, plain=True)
    started = time.monotonic()
    found = memory.measure(broker.bootstrap_servers, world, state, OUT, lambda text: print(text, flush=True))
    print(f"{found.line()}; {time.monotonic() - started:.0f} s")
    return {"samples": found.samples, "mb_per_100000_users": found.slope}


def _stock(broker: LocalBroker, state: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Each variant in a process and a state of its own, the same events; which settings serve stock Faust best?"""
    world = World(users=chosen.users, plain=chosen.plain)
    servers = broker.bootstrap_servers
    create_other_topics(servers, STOCK_TOPICS, world.partitions)
    found = {}
    for number, options in enumerate(_VARIANTS):
        line = stock(servers, state / str(number), OUT, world.partitions, **options)
        with contending(line, servers, world.partitions) as contender:
            contender.warm_up(list(world.events(chosen.events // 20, 2 * number)))
            drain = contender.turn(list(world.events(chosen.events // 4, 2 * number + 1)), chosen.seconds)
            contender.catch_up()
        name = ", ".join(f"{key}={value}" for key, value in options.items()) or "as compared"
        print(f"{name:20}{drain.rate:10,.0f} events/s{drain.cpu_us:10.1f} us CPU/event", flush=True)
        found[name] = {"events_per_second": drain.rate, "cpu_us_per_event": drain.cpu_us}
    return {"variants": found}


if __name__ == "__main__":
    try:
        main()
    except (Failed, BrokerUnavailableError, TimeoutError) as problem:
        sys.exit(f"bench: {problem}")
