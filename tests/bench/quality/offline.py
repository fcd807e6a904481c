"""The same events by `bootstrap.evaluate`, over the item vectors that were published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bootstrap import online
from bootstrap.columns import columns_of
from bootstrap.evaluate import Trained, _Replay, split
from bootstrap.fold import fold
from bootstrap.matrix import build
from bootstrap.model import Model
from bootstrap.read import read_file
from bootstrap.users import solve_users, space_of
from ops.data import write_ndjson
from schemas.records import Manifest
from streamer.events.read import Reader
from tests.bench.peers.events import F64
from tests.bench.quality.stage import Event


@dataclass(frozen=True, slots=True)
class Offline:
    """Positions of each event of the second half, (T,) each, -1 where not scored; still: with items standing still."""

    folded: F64
    still: F64
    frozen: F64
    popular: F64


def foretell(
    before: Sequence[Event],
    after: Sequence[Event],
    manifest: Manifest,
    model: Model,
    folder: Path,
    *,
    tolerance: float,
    now_ms: int,
    items_move: bool,
) -> Offline:
    """Read both halves as the job does, train nothing anew, and replay; with items that move, by `bootstrap.online`."""
    policy = manifest.policy
    file = folder / "both.ndjson"
    write_ndjson(file, [*before, *after])
    reader = Reader(policy, tenant=None, max_bytes=65_536, invalid_items=frozenset())
    log = read_file(str(file), reader, policy, now_ms=now_ms)
    columns, collisions = columns_of(log, policy, bytes.fromhex(manifest.item_key))
    assert not collisions
    assert len(columns) == len(before) + len(after), "an event was refused, so that the halves are not those sent"
    older, newer = split(columns, len(before) / len(columns))
    kept = columns.take(np.sort(older))
    users = fold(kept, policy)
    matrix = build(kept, users, policy, int(kept.at.max()))
    assert matrix.item_ids == model.item_ids
    space = space_of(matrix, model.items, policy)
    trained = Trained(users, matrix, space, solve_users(matrix, space, policy, tolerance))
    replay = _Replay(columns, older, newer, trained, policy, tolerance, 10)
    still, frozen = replay.ranks(lambda done: None)
    folded = still
    if items_move:
        ridge = float(manifest.hyperparameters.get("ridge_items") or 0.0)
        moved = online.foretell(columns, older, newer, trained, policy, ridge_items=ridge, newcomers_compete=False)
        folded = np.where(moved.generation, moved.rank, -1.0)
    return Offline(folded, still, frozen, replay.popular_ranks())
