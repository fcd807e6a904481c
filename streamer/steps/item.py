"""The item step: signals of one partition in, moved item vectors out. One owner an item, each signal applied once.

    signals -> rows -> sgd -> guard -> publish

A signal carries the user's refreshed vector and the event's confidence. An item outside the generation is recorded
with a bounded reservoir of its users' vectors, from which it can be folded in; until then it is not published.

When a partition cuts over to another generation each of its items is renewed: the vector as the new model trained it,
under a newer version; items that the new model does not know are withdrawn by a tombstone.
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
    dimension_of,
    encode_item_row,
    generation_of,
    reservoir_dtype,
    signal_dtype,
)
from schemas.records import Manifest
from streamer.events.hashes import generation_id
from streamer.factors.guard import guard
from streamer.factors.sgd import apply_signals
from streamer.steps.effects import Effects
from streamer.steps.horizon import Horizon
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
    """Signals of one batch: (S,) `signal_dtype`, the row each is for, and the source offset of each.

    others: the generations of signals that were left out; ahead: is one of them still to come?
    """

    partition: int
    keys: list[bytes]
    signals: npt.NDArray[Any]
    row_of: npt.NDArray[np.intp]
    offsets: npt.NDArray[np.int64]
    ahead: bool = False
    others: frozenset[int] = frozenset()
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
        generation: int | None = None,
        founding: bool = True,
        horizon: Horizon | None = None,
    ) -> None:
        """``generation``: by default the model's own; ``horizon``: whose other signals are dropped, None for all."""
        self.founding, self._horizon = founding, horizon
        self._policy, self._items, self._topics = manifest.policy, items, topics
        self._dimension = manifest.dimension
        self._generation = generation_id(manifest.model_version) if generation is None else generation
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
        if self._horizon is not None and len(mine) < len(signals):
            batch.others = frozenset(np.unique(signals["generation"]).tolist()) - {self._generation}
            batch.ahead = self._horizon.beyond(batch.others)
        return batch

    def give_up(self, batch: ItemBatch) -> None:
        """Its other generations have been waited for long enough."""
        if self._horizon is not None:
            self._horizon.give_up(batch.others)

    # --- renew: items of another generation ---------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """`generation_id` of what is served."""
        return self._generation

    def stale(self, key: bytes, row: bytes | None) -> bool:
        """Is it a row of another generation, or an item of this or another one that has no row yet?"""
        if row is not None:
            return generation_of(row) != self._generation
        item_id = key.decode()
        return self._items.space.index_of(item_id) >= 0 or item_id in self._items.others

    def unwritten(self, partition: int) -> list[bytes]:
        """Every item of the partition that this generation or another one has published."""
        ids = {*self._items.space.ids, *self._items.others}
        return [item_id.encode() for item_id in sorted(ids) if self._items.of(item_id)[2] == partition]

    def renew(self, keys: Sequence[bytes], rows: Sequence[bytes | None], partition: int) -> Effects:
        """Publish items as this generation trained them, and withdraw those that it does not know."""
        effects = Effects()
        items = [self._row(key, row) for key, row in zip(keys, rows, strict=True)]
        known = [(key, item) for key, item in zip(keys, items, strict=True) if item.known]
        for _, item in known:
            item.version += 1
        effects.rows = [(key, encode_item_row(item)) for key, item in zip(keys, items, strict=True)]
        target = (self._topics.item_factors, partition)
        effects.sends[target] = [
            (key, None, None, []) for key, item in zip(keys, items, strict=True) if not item.known and item.version
        ]
        if known:
            vectors = np.stack([item.vector for _, item in known])
            self._publish([key for key, _ in known], [item for _, item in known], vectors, partition, effects)
            effects.norms = np.linalg.norm(vectors, axis=1)
        return effects

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
        """The item's row; of an item that no signal has moved in this generation, what the model says."""
        old = None
        if row is not None:
            if generation_of(row) == self._generation:
                return decode_item_row(row, dimension=self._dimension)
            old = decode_item_row(row, dimension=dimension_of(row))
        item_id = key.decode()
        space, index = self._items.space, self._items.space.index_of(item_id)
        known = index >= 0
        vector = space.vectors[index].copy() if known else np.zeros(self._dimension, np.float32)
        version = max(int(space.versions[index]) if known else 0, self._items.others.get(item_id, 0))
        if old is None:
            return ItemRow(self._generation, version, 0, 0, 0, vector, known=known)
        version = max(version, old.version)
        # A young item's users were solved in the old space. The new one is aligned to it, so they serve until each of
        # them is heard of again; in a space of another dimension they say nothing.
        kept = None if known or dimension_of(row or b"") != self._dimension else old.reservoir
        return ItemRow(
            self._generation, version, old.events, old.event_time, old.source_next, vector, known=known, reservoir=kept
        )

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
        new, norms = apply_signals(
            old,
            place[batch.row_of[chosen]],
            np.ascontiguousarray(signals["vector"]),
            signals["confidence"].astype(np.float64),
            self._policy,
        )
        checked = guard(new, self._policy.norm_cap)
        new = np.where(checked.finite[:, None], checked.vectors, old)
        for at, vector in zip(moving.tolist(), new, strict=True):
            items[at].vector = vector
            items[at].version += 1
        effects.norms = np.linalg.norm(new, axis=1)
        effects.facts["nonfinite"] = float(len(new) - int(checked.finite.sum()))
        effects.facts["item_update_norm"] = float(norms.max(initial=0.0))
        effects.facts["signals"] = float(len(chosen))
        self._publish(
            [batch.keys[at] for at in moving.tolist()],
            [items[at] for at in moving.tolist()],
            new.astype(np.float32, copy=False),
            batch.partition,
            effects,
        )

    def _publish(
        self,
        keys: list[bytes],
        items: list[ItemRow],
        vectors: npt.NDArray[np.float32],
        partition: int,
        effects: Effects,
    ) -> None:
        source = f"{self._topics.item_signals}/{partition}/".encode()
        records = self._publisher.records(
            keys,
            vectors,
            [item.version for item in items],
            [item.events for item in items],
            [item.event_time for item in items],
            [b""] * len(items),
            [source + b"%d" % max(item.source_next - 1, 0) for item in items],
            [],
            {},
        )
        effects.sends.setdefault((self._topics.item_factors, partition), []).extend(records)
