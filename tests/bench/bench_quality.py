"""Quality through the real pipeline: `python -m tests.bench.bench_quality [--events N] [--items-move] [--seed N]`.

A broker, the product's own bootstrap on the first half of MovieLens-100K, one worker of both roles, then the second
half: before an event is sent, all items of the model that its user has not had are ranked with the newest committed
vectors, as any consumer reads them. Beside it the offline simulation of the same events (`bootstrap/evaluate.py`).

With items standing still and none coming in (unless --items-move) both must find the same: the bench fails if a
rank differs by more than rounding explains. With items that move, events are sent one by one, and the offline column is
`bootstrap/online.py`; there the last digit of a user's vector goes on into the items, so that figures are compared.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from ops.broker import find_broker
from ops.data import Dataset, Source, load
from streamer.configuration import CONFIG_VARIABLE
from tests.bench.peers.contenders import FOUND
from tests.bench.peers.events import F64
from tests.bench.peers.replay import Foretold
from tests.bench.quality.offline import Offline, foretell
from tests.bench.quality.stage import Stage, halves, variables
from tests.bench.quality.streamed import Replay, Streamed

ROOT = Path(__file__).parents[2]
SHOWN = 1_000


@dataclass(frozen=True, slots=True)
class Compared:
    """Both sides over the same events; known: (T,) users known at the cut."""

    streamed: Streamed
    offline: Offline
    known: npt.NDArray[np.bool_]
    seconds: float

    @property
    def differing(self) -> int:
        """Events whose rank is not the same number."""
        return int(np.count_nonzero(self.streamed.rank != self.offline.folded))

    @property
    def unexplained(self) -> int:
        """Those of them whose offline rank lies outside of what rounding allows."""
        low, high, rank = self.streamed.low, self.streamed.high, self.offline.folded
        return int(np.count_nonzero((rank < low) | (rank > high)))

    def lines(self) -> list[str]:
        """The table, and what differs."""
        rows: list[tuple[str, F64 | None, F64]] = [
            ("folded in", self.streamed.rank, self.offline.folded),
            ("items standing still", None, self.offline.still),
            ("frozen", self.streamed.frozen, self.offline.frozen),
            ("popularity", None, self.offline.popular),
        ]
        head = ["Recall@10 / NDCG@10", "users", "through Kafka", "offline"]
        lines = [head, ["---"] * len(head)]
        for name, streamed, offline in rows:
            for group in ("all", "known", "new"):
                found = ["" if rank is None else self._quality(rank, group) for rank in (streamed, offline)]
                lines.append([name, group, *found])
        scored = int(np.count_nonzero(self.offline.folded >= 0))
        sent = f"{len(self.known):,} events sent in {self.seconds:.0f} s, {scored:,} scored"
        differ = f"{self.differing:,} ranks differ, {self.unexplained:,} of them by more than rounding explains"
        return [
            *("| " + " | ".join(line) + " |" for line in lines),
            "",
            f"{sent}; {differ}",
        ]

    def _quality(self, rank: F64, group: str) -> str:
        quality = Foretold(rank, self.known, 0.0).quality(group)
        return f"{quality.recall:.4f} / {quality.ndcg:.4f}"


def compare(stage: Stage, data: Dataset, limit: int | None, *, items_move: bool) -> Compared:
    """Serve the first half, stream the second, simulate the same."""
    now_ms = time.time_ns() // 1_000_000
    before, after = halves(data, now_ms, limit)
    manifest, model = stage.serve(before)
    began = time.monotonic()

    def tell(done: int) -> None:
        if done % SHOWN == 0:
            print(f"  {done:,} of {len(after):,} events, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    replay = Replay(stage.servers, stage.prefix, manifest, model, before, items_move=items_move)
    streamed = replay.run(after, tell)
    seconds = time.monotonic() - began
    tolerance = stage.settings().engine.tolerance
    offline = foretell(
        before, after, manifest, model, stage.folder, tolerance=tolerance, now_ms=now_ms, items_move=items_move
    )
    users = {event["user_id"] for event in before}
    known = np.array([event["user_id"] in users for event in after])
    return Compared(streamed, offline, known, seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; 1 if the pipeline and the simulation disagree though items stand still."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_quality", description=__doc__)
    sources: tuple[Source, ...] = ("auto", "movielens", "synthetic")
    parser.add_argument("--data", choices=sources, default="auto")
    parser.add_argument("--events", type=int, help="of the second half, at most")
    parser.add_argument("--items-move", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--config", type=Path, default=FOUND)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="policy.sgd_rate=0.003")
    chosen = parser.parse_args(arguments)
    changes = {"bootstrap.seed": str(chosen.seed)}
    if not chosen.items_move:
        changes |= {"policy.sgd_rate": "0", "policy.new_items_cap": "0"}
    changes |= dict(text.split("=", 1) for text in chosen.set)
    environment = variables(changes) | {CONFIG_VARIABLE: str(chosen.config.resolve())}
    folder = ROOT / ".cache" / "bench" / uuid4().hex[:8]
    data = load(chosen.data)
    try:
        with (
            find_broker() as broker,
            Stage(broker.bootstrap_servers, f"quality-{uuid4().hex[:8]}.", folder, changes=environment) as stage,
        ):
            compared = compare(stage, data, chosen.events, items_move=chosen.items_move)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{data.name}, seed {chosen.seed}: {' '.join(f'{name}={value}' for name, value in changes.items())}")
    print(*compared.lines(), sep="\n")
    return int(not chosen.items_move and compared.unexplained > 0)


if __name__ == "__main__":
    sys.exit(main())
