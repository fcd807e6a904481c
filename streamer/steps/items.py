"""The item side as a user worker knows it: vectors, hashes, partitions, states; fed by the replica."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from streamer.events.hashes import item_hash, partition
from streamer.factors.ridge import Ridge
from streamer.factors.space import ItemSpace


class Items:
    """One generation's item vectors with what the user step needs beside them.

    epochs: (item partitions,) int64, the offset in each partition of item-factors up to which this view has read;
    listed: ids in the catalogue; invalid: those that it has withdrawn or banned.
    """

    def __init__(self, *, dimension: int, ridge: float | Ridge, item_key: bytes, partitions: int) -> None:
        self.space = ItemSpace(dimension, ridge)
        self.epochs = np.zeros(partitions, np.int64)
        self.invalid: set[str] = set()
        self.listed: set[str] = set()
        self._item_key, self._partitions = item_key, partitions
        self._known: dict[str, tuple[int, int, int]] = {}

    def of(self, item_id: str) -> tuple[int, int, int]:
        """(index or -1, hash, item partition) of an item; an unknown id is hashed anew and not remembered.

        May be called while another thread puts vectors.
        """
        known = self._known.get(item_id)
        return known if known is not None else self._of_unknown(item_id)

    def _of_unknown(self, item_id: str) -> tuple[int, int, int]:
        return -1, item_hash(item_id, self._item_key), partition(item_id.encode(), self._partitions)

    def coverage(self) -> float:
        """The share of catalogued items that have a vector; 1 without a catalogue."""
        listed = list(self.listed)  # the maths thread may change the set meanwhile
        return sum(self.space.index_of(item) >= 0 for item in listed) / len(listed) if listed else 1.0

    def settle(self) -> None:
        """Count the Gramian anew in the order of item ids, so that it has the same bits wherever it was loaded."""
        space = self.space
        order = np.argsort(np.array(space.ids, dtype=object), kind="stable")
        space.gramian = space.product(order)
        space.refactor()

    def put(
        self,
        item_ids: Sequence[str],
        versions: Sequence[int],
        vectors: npt.NDArray[np.float32],
        weights: Sequence[float] | None = None,
    ) -> int:
        """Take published vectors (n, k) in log order; records that are not newer are dropped. Returns how many came in.

        weights: of an unobserved pair of each item, 1 for all where they are left out.

        An id whose hash another id already has is refused and counted in ``space.collisions``.
        """
        hashes = np.fromiter((item_hash(item_id, self._item_key) for item_id in item_ids), np.uint64, len(item_ids))
        before = self.space.size
        index = self.space.add(item_ids, hashes)
        for number, item_id in enumerate(self.space.ids[before:], before):
            _, hashed, target = self._of_unknown(item_id)
            self._known[item_id] = number, hashed, target
        newer = np.zeros(len(index), bool)
        known = self.space.versions
        for position, (at, version) in enumerate(zip(index.tolist(), versions, strict=True)):
            if at >= 0 and version > known[at]:
                known[at] = version
                newer[position] = True
        if newer.any():
            weight = np.ones(len(index)) if weights is None else np.array(weights, np.float64)
            self.space.put(index[newer], vectors[newer], weight[newer])
        return int(newer.sum())
