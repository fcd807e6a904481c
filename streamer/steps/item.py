"""The item step: signals of one partition in, moved item vectors out. One owner an item, each signal applied once.

    signals -> rows -> sgd -> guard -> publish

A signal carries the user's refreshed vector and the event's confidence; of explicit feedback the vector with its bias
behind it and the rating, and the item's bias moves with its vector. An item outside the generation is recorded
with a bounded reservoir of its users' vectors, from which it can be folded in; until then it is not published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from schemas.layouts import (
    ItemRow,
    decode_item_row,
    decode_signals,
    encode_item_row,
    reservoir_dtype,
    signal_dtype,
)
from schemas.records import Manifest
from streamer.events.hashes import generation_id
from streamer.factors.explicit import apply_ratings
from streamer.factors.guard import guard
from streamer.factors.sgd import apply_signals
from streamer.steps.effects import Effects
from streamer.steps.items import Items
from streamer.steps.records import Publisher

RESERVOIR = 32


@dataclass(frozen=True, slots=True)
class ItemTopics:
    """Full topic names of the item side."""

    item_signals: str
    item_factors: str


@dataclass(slots=True)
class ItemBatch:
    """Signals of one batch: (S,) `signal_dtype`, the row each is for, and the source offset of each."""

    partition: int
    keys: list[bytes]
    signals: npt.NDArray[Any]
    row_of: npt.NDArray[np.intp]
    offsets: npt.NDArray[np.int64]
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
        self._policy, self._items, self._topics = manifest.policy, items, topics
        self._dimension, self._mean = manifest.width, manifest.global_mean
        self._generation = generation_id(manifest.model_version)
        self._publisher = Publisher(
            "item", source, manifest.model_version, manifest.dimension, manifest.training_data_end, encoding
        )

    def read(self, records: Sequence[Any], partition: int) -> ItemBatch:
        """Signals as columns; those of another size or generation are counted and left out."""
        size = signal_dtype(self._dimension).itemsize
        good = [record for record in records if record.key and record.value and len(record.value) == size]
        signals = decode_signals([record.value for record in good], dimension=self._dimension)
        mine = np.flatnonzero(signals["generation"] == self._generation)
        keys: dict[bytes, int] = {}
        row_of = [keys.setdefault(good[at].key, len(keys)) for at in mine.tolist()]
        offsets = np.array([good[at].offset for at in mine.tolist()], np.int64)
        batch = ItemBatch(partition, list(keys), signals[mine], np.array(row_of, np.intp), offsets)
        batch.effects.facts["signals_foreign"] = float(len(records) - len(mine))
        return batch

    def reuse(self, effects: Effects) -> None:
        """Nothing to take back."""

    def apply(self, batch: ItemBatch, rows: Sequence[bytes | None]) -> Effects:
        """Apply each signal to its item's row, in log order for each item."""
        effects = batch.effects
        if not batch.keys:
            return effects
        items = [self._row(key, row) for key, row in zip(batch.keys, rows, strict=True)]
        known = np.array([item.known for item in items], bool)
        self._count(batch, items)
        self._fill_reservoirs(batch, items, known)
        self._move(batch, items, known, effects)
        effects.rows = [(key, encode_item_row(item)) for key, item in zip(batch.keys, items, strict=True)]
        effects.facts["signals_unknown"] = float((~known[batch.row_of]).sum())
        return effects

    def _row(self, key: bytes, row: bytes | None) -> ItemRow:
        """The item's row; of an item that no signal has moved, the generation's own vector and version."""
        if row is not None:
            found = decode_item_row(row, dimension=self._dimension)
            if found.generation == self._generation:
                return found
        space = self._items.space
        index = space.index_of(key.decode())
        known = index >= 0
        vector = space.vectors[index].copy() if known else np.zeros(self._dimension, np.float32)
        version = int(space.versions[index]) if known else 0
        return ItemRow(self._generation, version, 0, 0, 0, vector, known=known)

    @staticmethod
    def _count(batch: ItemBatch, items: list[ItemRow]) -> None:
        times, offsets = batch.signals["event_time"].tolist(), batch.offsets.tolist()
        for row, time, offset in zip(batch.row_of.tolist(), times, offsets, strict=True):
            item = items[row]
            item.events += 1
            item.event_time = max(item.event_time, time)
            item.source_next = offset + 1

    def _fill_reservoirs(self, batch: ItemBatch, items: list[ItemRow], known: npt.NDArray[np.bool_]) -> None:
        """Keep the newest vector of each of at most `RESERVOIR` users of an item that has no vector yet."""
        dtype = reservoir_dtype(self._dimension)
        for at in np.flatnonzero(~known[batch.row_of]).tolist():
            signal, item = batch.signals[at], items[int(batch.row_of[at])]
            entry = np.zeros(1, dtype)
            entry["user"], entry["confidence"], entry["vector"] = (
                signal["user"],
                signal["confidence"],
                signal["vector"],
            )
            old = np.zeros(0, dtype) if item.reservoir is None else item.reservoir
            item.reservoir = np.concatenate([old[old["user"] != signal["user"]], entry])[-RESERVOIR:]

    def _move(self, batch: ItemBatch, items: list[ItemRow], known: npt.NDArray[np.bool_], effects: Effects) -> None:
        """SGD on the items that have a vector, then publish each once."""
        moving = np.flatnonzero(known)
        if not len(moving):
            return
        place = np.full(len(items), -1, np.intp)
        place[moving] = np.arange(len(moving))
        chosen = np.flatnonzero(known[batch.row_of])
        old = np.stack([items[at].vector for at in moving.tolist()])
        signals = batch.signals[chosen]
        row, users = place[batch.row_of[chosen]], np.ascontiguousarray(signals["vector"])
        weight = signals["confidence"].astype(np.float64)
        if self._mean is None:
            new, norms = apply_signals(old, row, users, weight, self._policy)
        else:
            new, norms = apply_ratings(old, row, users, weight, self._mean, self._policy)
        checked = guard(new, self._policy.norm_cap)
        new = np.where(checked.finite[:, None], checked.vectors, old)
        for at, vector in zip(moving.tolist(), new, strict=True):
            items[at].vector = vector
            items[at].version += 1
        effects.norms = np.linalg.norm(new, axis=1)
        effects.facts["nonfinite"] = float(len(new) - int(checked.finite.sum()))
        effects.facts["item_update_norm"] = float(norms.max(initial=0.0))
        effects.facts["signals"] = float(len(chosen))
        moved = [items[at] for at in moving.tolist()]
        source = f"{self._topics.item_signals}/{batch.partition}/".encode()
        effects.sends[self._topics.item_factors, batch.partition] = self._publisher.records(
            [batch.keys[at] for at in moving.tolist()],
            new.astype(np.float32, copy=False),
            [item.version for item in moved],
            [item.events for item in moved],
            [item.event_time for item in moved],
            [b""] * len(moved),
            [source + b"%d" % (item.source_next - 1) for item in moved],
            [],
            {},
        )
