"""The item step: signals of one partition in, moved item vectors out. One owner an item, each signal applied once.

    signals -> rows -> learn (fold in, or sgd) -> guard -> publish

A signal carries the user's refreshed vector and the event's confidence. An item outside the generation is recorded
with a bounded reservoir of its users' vectors, from which it is folded in once enough users have chosen it; until then
it is not published. How many items a partition has folded in is a row of its own, under `FOLDED_KEY`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from schemas.layouts import (
    FOLDED_KEY,
    FORMAT,
    PAIR_FORMAT,
    SIGNAL,
    ItemRow,
    decode_folded,
    decode_item_row,
    decode_signals,
    encode_folded,
    encode_item_row,
    signal_dtype,
)
from schemas.records import Manifest
from streamer.events.hashes import generation_id
from streamer.factors.learner import ItemLearner
from streamer.factors.newcomer import user_side
from streamer.steps.effects import Effects
from streamer.steps.items import Items
from streamer.steps.records import Publisher

_FOLDED_IN = b',"basis":"history"'


@dataclass(frozen=True, slots=True)
class ItemTopics:
    """Full topic names of the item side."""

    item_signals: str
    item_factors: str


@dataclass(slots=True)
class ItemBatch:
    """Signals of one batch: (S,) `signal_dtype`, the row each is for, and the source offset of each.

    keys: the items' rows, and last `FOLDED_KEY` where some item is outside the generation.
    """

    partition: int
    keys: list[bytes]
    signals: npt.NDArray[Any]
    row_of: npt.NDArray[np.intp]
    offsets: list[int]
    effects: Effects = field(default_factory=Effects)


class ItemStep:
    """See the module docstring; ``items`` is read, never changed."""

    def __init__(
        self,
        manifest: Manifest,
        items: Items,
        topics: ItemTopics,
        *,
        encoding: Literal["json", "f32le"],
        source: str,
    ) -> None:
        policy = manifest.policy
        self._items, self._topics = items, topics
        self._dimension = manifest.dimension
        self._generation = generation_id(manifest.model_version)
        self._publisher = Publisher(
            "item", source, manifest.model_version, manifest.dimension, manifest.training_data_end, encoding
        )
        # Each partition has its share of the cap, so that no owner need know of another.
        share = -(-policy.new_items_cap // len(items.epochs))
        self._users = user_side(manifest)
        self._learner = ItemLearner(policy, self._users, share)
        self._pair, self._balanced = policy.sgd_objective == "bpr", policy.sgd_balance > 0
        form = PAIR_FORMAT if self._pair else FORMAT
        self._begin = bytes((form, SIGNAL)) + manifest.dimension.to_bytes(2, "little")

    def read(self, records: Sequence[Any], partition: int) -> ItemBatch:
        """Signals as columns; those of another size, form or generation are counted and left out."""
        size, begin = signal_dtype(self._dimension, pair=self._pair).itemsize, self._begin
        good = [one for one in records if one.key and one.value and len(one.value) == size and one.value[:4] == begin]
        signals = decode_signals([record.value for record in good], dimension=self._dimension, pair=self._pair)
        mine = np.flatnonzero(signals["generation"] == self._generation)
        keys: dict[bytes, int] = {}
        row_of = [keys.setdefault(good[at].key, len(keys)) for at in mine.tolist()]
        offsets = [good[at].offset for at in mine.tolist()]
        index_of = self._items.space.index_of
        strange = self._users is not None and any(index_of(key.decode()) < 0 for key in keys)
        rows = [*keys, FOLDED_KEY] if strange else list(keys)
        batch = ItemBatch(partition, rows, signals[mine], np.array(row_of, np.intp), offsets)
        batch.effects.facts["signals_foreign"] = float(len(records) - len(mine))
        return batch

    def reuse(self, effects: Effects) -> None:
        """Nothing to take back."""

    def apply(self, batch: ItemBatch, rows: Sequence[bytes | None]) -> Effects:
        """Apply each signal to its item's row, in log order for each item."""
        effects, keys = batch.effects, batch.keys
        if not keys:
            return effects
        counted = keys[-1] == FOLDED_KEY
        if counted:
            keys, rows, count = keys[:-1], rows[:-1], rows[-1]
        folded = decode_folded(count, self._generation) if counted else 0
        items = [self._row(key, row) for key, row in zip(keys, rows, strict=True)]
        done = self._learner.learn(items, batch.row_of, batch.signals, batch.offsets, folded)
        moved = done.moved.tolist()
        for at in moved:
            items[at].version += 1
        effects.rows = [(key, encode_item_row(item)) for key, item in zip(keys, items, strict=True)]
        if done.folded != folded:
            effects.rows.append((FOLDED_KEY, encode_folded(self._generation, done.folded)))
        effects.facts |= {
            "signals_unknown": float(done.unknown),
            "items_folded": float(done.folded - folded),
            "signals_capped": float(done.capped),
        }
        if moved:
            effects.facts |= {
                "nonfinite": float(done.refused),
                "item_update_norm": float(done.norms.max(initial=0.0)),
                "signals": float(len(done.norms)),
            }
            self._publish(batch, [keys[at] for at in moved], [items[at] for at in moved], effects)
        return effects

    def _row(self, key: bytes, row: bytes | None) -> ItemRow:
        """The item's row; of an item that no signal has moved, the generation's own vector and version."""
        if row is not None:
            found = decode_item_row(row, dimension=self._dimension)
            if found.generation == self._generation:
                return found
        space, name = self._items.space, key.decode()
        index = space.index_of(name)
        known = index >= 0
        vector = space.vectors[index].copy() if known else np.zeros(self._dimension, np.float32)
        version = int(space.versions[index]) if known else 0
        fresh = ItemRow(self._generation, version, 0, 0, 0, vector, known=known)
        if known:
            self._learner.root(fresh, self._items.popularity.get(name, 1.0))
        return fresh

    def _publish(self, batch: ItemBatch, keys: list[bytes], moved: list[ItemRow], effects: Effects) -> None:
        vectors = np.stack([item.vector for item in moved])
        effects.norms = np.linalg.norm(vectors, axis=1)
        source = f"{self._topics.item_signals}/{batch.partition}/".encode()
        effects.sends[self._topics.item_factors, batch.partition] = self._publisher.records(
            keys,
            vectors,
            [item.version for item in moved],
            [item.events for item in moved],
            [item.event_time for item in moved],
            [self._extra(item) for item in moved],
            [source + b"%d" % (item.source_next - 1) for item in moved],
            [],
            {},
        )

    def _extra(self, item: ItemRow) -> bytes:
        """What a worker that begins anew must know of the item beside its vector."""
        basis = _FOLDED_IN if item.folded else b""
        return basis + (b',"popularity":%b' % repr(item.popularity).encode() if self._balanced else b"")
