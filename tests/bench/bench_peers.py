"""The peers on the same events in one table: `python -m tests.bench.bench_peers [--seeds 3] [--rows eALS ISGD]`.

Positive events in time order, MovieLens-100K where it can be had; the first half is the batch, the second half is
foretold event by event and then learnt (`tests/bench/peers/replay.py`). Each contender's parameters are chosen by
NDCG@10 on the first half alone, cut in the middle again, with seed 0; then the second half is replayed once a seed.
This project's own were found by `bootstrap search` on the same first half: 33 trials, more than any grid here.

Speed is CPU time of one thread in the update alone: one event a call, and, where a contender can, 1,000 a call. The
implementations are not equal: ours includes reading the event's bytes and writing the row's and the record's, those
written here for the comparison are plain numpy unless the notes say otherwise. `implicit` and `river` are wanted but
not required: `pip install implicit river`; their rows are left out with the reason without them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ops.data import Source, load
from tests.bench.peers.contenders import FOUND, Contender, contenders
from tests.bench.peers.events import Split, halves, numbered
from tests.bench.peers.replay import Foretold, Together, foretell, rate_together

BATCH = 1_000
GROUPS = ("all", "known", "new")


@dataclass(slots=True)
class Row:
    """What a contender reached: one `Foretold` a seed; ``rates`` of batches; or why it was left out."""

    contender: Contender
    chosen: dict[str, Any] = field(default_factory=dict)
    runs: list[Foretold] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    missing: str = ""

    def cells(self) -> list[str]:
        """The cells of the table."""
        if self.missing:
            return [self.contender.name, *["left out"] * 8, self.missing]
        found = [[run.quality(group) for run in self.runs] for group in GROUPS]
        quality = [spread([getattr(one, metric) for one in of]) for of in found for metric in ("recall", "ndcg")]
        together = f"{np.median(self.rates):,.0f}" if self.rates else ""
        alone = np.median([run.rate for run in self.runs])
        settled = ", ".join(f"{name} {value:g}" for name, value in self.chosen.items())
        note = "; ".join(part for part in (self.contender.note, settled) if part)
        learns = self.contender.name not in {"popularity", "frozen batch ALS"}
        return [self.contender.name, *quality, f"{alone:,.0f}" if learns else "", together, note]


def spread(values: Sequence[float]) -> str:
    """The mean, with the range where there is any."""
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    mean = f"{np.mean(values):.3f}"
    return mean if low == high else f"{mean} ({low} to {high})"


def tune(contender: Contender, split: Split) -> dict[str, Any]:
    """The combination with the best NDCG@10 on the inner split, which ends where the test begins."""
    grid = contender.grid()
    if len(grid) == 1:
        return grid[0]

    def judged(parameters: dict[str, Any]) -> float:
        ndcg = run(contender, parameters, split, 0).quality().ndcg
        say(f"  {contender.name}: {parameters} NDCG@10 {ndcg:.4f} on the inner split")
        return ndcg

    return max(grid, key=judged)


def run(contender: Contender, parameters: dict[str, Any], split: Split, seed: int) -> Foretold:
    """Fit on the part before the cut, then replay the part after it."""
    peer = contender.make(seed, **parameters)
    peer.fit(split)
    return foretell(peer, split)


def measure(contender: Contender, tuned: Contender, inner: Split, outer: Split, seeds: int) -> Row:
    """Tune (``tuned`` in its place), then replay the second half with each seed."""
    row = Row(contender)
    try:
        row.chosen = tune(tuned, inner)
        for seed in range(seeds if contender.seeded else 1):
            row.runs.append(run(contender, row.chosen, outer, seed))
            say(f"  {contender.name}: seed {seed}, {row.runs[-1].quality()}, {row.runs[-1].rate:,.0f} events/s")
            peer = contender.make(seed, **row.chosen)
            if isinstance(peer, Together):
                peer.fit(outer)
                row.rates.append(rate_together(peer, outer, BATCH))
    except ModuleNotFoundError as problem:
        row.missing = f"{problem.name} is not installed"
    return row


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as Markdown."""
    quality = [f"{metric}, {group}" for group in GROUPS for metric in ("Recall@10", "NDCG@10")]
    head = ["contender", *quality, "events/s, one a call", f"events/s, {BATCH:,} a call", "notes"]
    lines = [head, ["---"] * len(head), *(row.cells() for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_peers", description=__doc__)
    sources: tuple[Source, ...] = ("auto", "movielens", "synthetic")
    parser.add_argument("--data", choices=sources, default="auto")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--config", type=Path, default=FOUND, help="this project's parameters")
    parser.add_argument("--rows", nargs="*", help="only contenders whose name contains one of these")
    chosen = parser.parse_args(arguments)
    data = load(chosen.data)
    events = numbered(data)
    outer, inner = halves(events), halves(halves(events).before)
    rows: list[Row] = []
    everyone = {contender.name: contender for contender in contenders(chosen.config)}
    with threadpool_limits(1):
        for name, contender in everyone.items():
            if not chosen.rows or any(part in name for part in chosen.rows):
                tuned = everyone[contender.like or name]
                rows.append(measure(contender, tuned, inner, outer, chosen.seeds))
    scored = int(np.count_nonzero(outer.after.item < outer.known_items))
    print(f"{data.name}: {len(outer.before):,} events to fit on, {len(outer.after):,} to learn, {scored:,} scored\n")
    print(*table(rows), sep="\n")


if __name__ == "__main__":
    main()
