"""What projected vectors are worth: hide some items from training, and look for them among all in the newer events.

    python -m tests.bench.bench_content [--hidden 0.1] [--seeds 3]

MovieLens-100K; genres and year are the attributes. Items are drawn by seed and all their events before the cut taken
away; then every later first event of a user with a hidden item is foretold by the folded-in users, who never learn
from what was hidden until it happens. Without projection a hidden item has no vector and stands last. Three are
compared: no projection, the mean of the trained items' vectors for all hidden ones, and the projection.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from bootstrap.columns import columns_of
from bootstrap.content import catalogue_of
from bootstrap.evaluate import split
from bootstrap.fit import replayed, train
from bootstrap.job import Source, read, recipe
from ops.data import load, write_ndjson
from streamer.events.hashes import ITEM_KEY_BYTES
from streamer.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bootstrap.columns import Columns
    from bootstrap.content import Catalogue
    from bootstrap.fit import Recipe

# What `bootstrap search` found on the first half of MovieLens-100K, rounded.
FOUND = {
    "FACTORS_POLICY__WINDOW_MS": "3153600000000",
    "FACTORS_POLICY__HALF_LIFE_MS": "0",
    "FACTORS_POLICY__RECENCY_ENTRIES": "3",
    "FACTORS_POLICY__RHS": "c-1",
    "FACTORS_POLICY__ALPHA": "10",
    "FACTORS_POLICY__RIDGE": "30",
    "FACTORS_BOOTSTRAP__TRAIN_FRACTION": "0.5",
}
_ALIKE = 1e12
"""A ridge that leaves nothing of the attributes: every item gets the mean vector."""


@contextmanager
def quiet(what: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """No progress shown."""
    yield lambda done, note: None


def measured(columns: Columns, plan: Recipe, catalogue: Catalogue, share: float, seed: int) -> dict[str, float]:
    """Recall@k and mean rank (0 first, 1 last) of the hidden items, and the recall of the others."""
    before, after = split(columns, plan.train_fraction)
    items = np.unique(columns.item[before])
    hidden = np.random.default_rng(seed).choice(items, round(share * len(items)), replace=False)
    before = before[~np.isin(columns.item[before], hidden)]
    trained = train(columns.take(np.sort(before)), plan, quiet, "", catalogue=catalogue)
    found = replayed(columns, before, after, trained, plan, quiet)
    mine = found.first & np.isin(found.item, hidden)
    count = len(trained.matrix.item_ids)
    rank = np.where(found.folded[mine] < 0, count - 1, found.folded[mine])
    others = found.folded[found.scored]
    return {
        "events": float(mine.sum()),
        "recall": float((rank < plan.k).mean()),
        "rank": float(rank.mean()) / max(count - 1, 1),
        "others": float((others < plan.k).mean()),
    }


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--hidden", type=float, default=0.1)
    arguments.add_argument("--seeds", type=int, default=3)
    asked = arguments.parse_args()
    data = load("movielens")
    settings = load_settings(None, FOUND)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(limits=1):
        events, items = Path(folder) / "events.ndjson", Path(folder) / "items.ndjson"
        write_ndjson(events, data.events)
        write_ndjson(items, data.items)
        log = read(settings, Source(str(events), str(items)), time.time_ns() // 1_000_000)
    key = bytes(ITEM_KEY_BYTES)
    columns, catalogue = columns_of(log, settings.policy, key)[0], catalogue_of(log.catalogue, key)
    plan = recipe(settings)
    kinds = {
        "no projection": plan,
        "the mean vector": replace(plan, content=True, content_ridge=_ALIKE),
        "projection": replace(plan, content=True),
    }
    print(f"{data.name}: {asked.hidden:.0%} of the items hidden from training, {asked.seeds} seeds")
    print(f"{'':>16}{f'Recall@{plan.k}':>12}{'range':>18}{'mean rank':>12}{'of the others':>15}{'events':>9}")
    for name, one in kinds.items():
        found = [measured(columns, one, catalogue, asked.hidden, seed) for seed in range(asked.seeds)]
        recall = [each["recall"] for each in found]
        mean = {metric: float(np.mean([each[metric] for each in found])) for metric in found[0]}
        print(
            f"{name:>16}{mean['recall']:12.4f}{f'{min(recall):.4f} to {max(recall):.4f}':>18}{mean['rank']:12.3f}"
            f"{mean['others']:15.4f}{mean['events']:9,.0f}"
        )


if __name__ == "__main__":
    main()
