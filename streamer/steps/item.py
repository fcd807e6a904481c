"""The item step: signals of one partition in, moved item vectors out. One owner an item, each signal applied once.

    signals -> rows -> learn (fold in, or sgd) -> guard -> publish

A signal carries the user's refreshed vector and the event's confidence; of explicit feedback the vector with its bias
behind it and the rating, and the item's bias moves with its vector. An item outside the generation is recorded
with a bounded reservoir of its users' vectors, from which it is folded in once enough users have chosen it; until then
it is not published. How many items a partition has folded in is a row of its own, under `FOLDED_KEY`.

When a partition cuts over to another generation each of its items is renewed: the vector as the new model trained it,
under a newer version; items that the new model does not know are withdrawn by a tombstone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from schemas.layouts import (
    FOLDED_KEY,
    FORMAT,
    PAIR_FORMAT,
    SIGNAL,
    ItemRow,
    decode_folded,
    decode_item_row,
    decode_signals,
    dimension_of,
    encode_folded,
    encode_item_row,
    generation_of,
    signal_dtype,
)
from schemas.records import Manifest
from streamer.events.hashes import generation_id
from streamer.factors.learner import ItemLearner
from streamer.factors.newcomer import user_side
from streamer.steps.effects import Effects
from streamer.steps.horizon import Horizon
from streamer.steps.items import Items
from streamer.steps.records import Publisher

_FOLDED_IN = b',"basis":"history"'
_SIGNAL_HEAD, _GENERATION_AT = 32, slice(24, 32)


@dataclass(frozen=True, slots=True)
class ItemTopics:
    """Full topic names of the item side."""

    item_signals: str
    item_factors: str


@dataclass(slots=True)
class ItemBatch:
    """Signals of one batch: (S,) `signal_dtype`, the row each is for, and the source offset of each.

    keys: the items' rows, and last `FOLDED_KEY` where some item is outside the generation.
    others: the generations of signals that were left out; ahead: is one of them still to come?
    """

    partition: int
    keys: list[bytes]
    signals: npt.NDArray[Any]
    row_of: npt.NDArray[np.intp]
    offsets: list[int]
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
        policy = manifest.policy
        self.founding, self._horizon = founding, horizon
        self._items, self._topics = items, topics
        self._dimension = manifest.width
        self._generation = generation_id(manifest.model_version) if generation is None else generation
        self._publisher = Publisher(
            "item", source, manifest.model_version, manifest.dimension, manifest.training_data_end, encoding
        )
        # Each partition has its share of the cap, so that no owner need know of another.
        share = -(-policy.new_items_cap // len(items.epochs))
        self._users = user_side(manifest)
        counts = manifest.counts
        trained, events = counts.get("trained_items", counts.get("items", 0)), counts.get("events", 0)
        event_share = trained / events if events else 0.0
        self._learner = ItemLearner(policy, self._users, share, mean=manifest.global_mean, event_share=event_share)
        self._pair, self._balanced = policy.sgd_objective == "bpr", policy.sgd_balance > 0
        form = PAIR_FORMAT if self._pair else FORMAT
        self._begin = bytes((form, SIGNAL)) + manifest.width.to_bytes(2, "little")

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
        if self._horizon is not None and len(mine) < len(records):
            batch.others = _generations_of(records) - {self._generation}
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
        if key == FOLDED_KEY:  # says itself which generation it counts for
            return False
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
        gone = [key for key, item in zip(keys, items, strict=True) if not item.known and item.version]
        effects.sends[self._topics.item_factors, partition] = [(key, None, None, []) for key in gone]
        if known:
            self._publish(partition, [key for key, _ in known], [item for _, item in known], effects)
        return effects

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
            self._publish(batch.partition, [keys[at] for at in moved], [items[at] for at in moved], effects)
        return effects

    def _row(self, key: bytes, row: bytes | None) -> ItemRow:
        """The item's row; of an item that no signal has moved in this generation, what the model says."""
        old = None
        if row is not None:
            if generation_of(row) == self._generation:
                return decode_item_row(row, dimension=self._dimension)
            # A young item's users were solved in the old space: they say nothing in this one, aligned or not. What they
            # did since the training is told again when their own rows are renewed.
            old = decode_item_row(row, dimension=dimension_of(row))
        space, name = self._items.space, key.decode()
        index = -1 if name in self._items.folded else space.index_of(name)
        known = index >= 0
        vector = space.vectors[index].copy() if known else np.zeros(self._dimension, np.float32)
        version = max(int(space.versions[index]) if known else 0, self._items.others.get(name, 0))
        fresh = ItemRow(self._generation, version, 0, 0, 0, vector, known=known)
        if old is not None:
            fresh.version = max(version, old.version)
            fresh.events, fresh.event_time, fresh.source_next = old.events, old.event_time, old.source_next
        if known:
            self._learner.root(fresh, self._items.popularity.get(name, 1.0))
        return fresh

    def _publish(self, partition: int, keys: list[bytes], moved: list[ItemRow], effects: Effects) -> None:
        vectors = np.stack([item.vector for item in moved])
        effects.norms = np.linalg.norm(vectors, axis=1)
        source = f"{self._topics.item_signals}/{partition}/".encode()
        records = self._publisher.records(
            keys,
            vectors,
            [item.version for item in moved],
            [item.events for item in moved],
            [item.event_time for item in moved],
            [self._extra(key, item) for key, item in zip(keys, moved, strict=True)],
            [source + b"%d" % max(item.source_next - 1, 0) for item in moved],
            [],
            {},
        )
        effects.sends.setdefault((self._topics.item_factors, partition), []).extend(records)

    def _extra(self, key: bytes, item: ItemRow) -> bytes:
        """What a worker that begins anew must know of the item beside its vector; its weight never changes."""
        fields = _FOLDED_IN if item.folded else b""
        if self._balanced:
            fields += b',"popularity":%b' % repr(item.popularity).encode()
        space = self._items.space
        index = space.index_of(key.decode()) if space.weighted else -1
        return fields + (b',"weight":%b' % orjson.dumps(float(space.weights[index])) if index >= 0 else b"")


def _generations_of(records: Sequence[Any]) -> frozenset[int]:
    """The generations of signals of whatever form and dimension: they say it in the same place."""
    signals = [one.value for one in records if one.value and len(one.value) >= _SIGNAL_HEAD and one.value[1] == SIGNAL]
    return frozenset(int.from_bytes(signal[_GENERATION_AT], "little") for signal in signals)
