"""The item side as a user worker knows it: vectors, hashes, partitions, states; fed by the replica."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from streamer.events.hashes import item_hash, partition
from streamer.factors.checksum import items_sha256
from streamer.factors.frozen import FrozenItems
from streamer.factors.ridge import Ridge
from streamer.factors.space import ItemSpace

_BLOCK = 8192
_CHECK_EVERY = 4
MAX_DRIFT = 1e-9
"""Relative to the Gramian's norm; a thousandth of what the solver leaves. Rounding alone stays below 1e-12."""


class Items:
    """One generation's item vectors with what the user step needs beside them.

    epochs: (item partitions,) int64, the offset in each partition of item-factors up to which this view has read;
    listed: ids in the catalogue; invalid: those that it has withdrawn or banned; folded: ids that came in by fold-in;
    popularity: of the ids that were published with one.
    others: id -> newest version that item-factors holds of it in another generation.
    frozen: (n,) int32, indexes of the generation's own items in the order of their ids, as `settle` found them: the
    same items in the same order in every worker, which draws of pairs need.
    trained: the vectors as they were trained, for the judge; None where nobody judges, or nobody has them any more.
    """

    def __init__(self, *, dimension: int, ridge: float | Ridge, item_key: bytes, partitions: int) -> None:
        self.space = ItemSpace(dimension, ridge)
        self.epochs = np.zeros(partitions, np.int64)
        self.invalid: set[str] = set()
        self.others: dict[str, int] = {}
        self.listed: set[str] = set()
        self.folded: set[str] = set()
        self.popularity: dict[str, float] = {}
        self.frozen: npt.NDArray[np.int32] = np.zeros(0, np.int32)
        self.trained: FrozenItems | None = None
        self.drift = 0.0
        self._item_key, self._partitions = item_key, partitions
        self._known: dict[str, tuple[int, int, int]] = {}
        self._moved = 0
        self._frozen_hashes: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)

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
        """Freeze the generation's items and count the Gramian anew, in the order of item ids.

        So it has the same bits wherever it was loaded.
        """
        space = self.space
        order = np.argsort(np.array(space.ids, dtype=object), kind="stable")
        space.gramian = space.product(order)
        space.refactor()
        folded = np.fromiter((space.index_of(item_id) for item_id in self.folded), np.int64, len(self.folded))
        self.frozen = order[~np.isin(order, folded)].astype(np.int32)
        self._frozen_hashes = self._frozen_hashes[:0]
        self._moved = 0

    def frozen_hashes(self) -> npt.NDArray[np.uint64]:
        """The hashes of the generation's own items, as `frozen` has them."""
        if len(self._frozen_hashes) != len(self.frozen):
            known, ids = self._known, self.space.ids
            self._frozen_hashes = np.array([known[ids[at]][1] for at in self.frozen.tolist()], np.uint64)
        return self._frozen_hashes

    def check_gramian(self) -> float | None:
        """Once in a while, how far the Gramian has drifted from an exact recount; above the bound that takes its place.

        Due when `_CHECK_EVERY` times as many vectors have been put as there are: so it costs a fraction of the puts.
        """
        if self._moved < _CHECK_EVERY * max(self.space.size, _BLOCK):
            return None
        self._moved = 0
        self.drift = self.space.drift(MAX_DRIFT)
        return self.drift

    def other_hashes(self) -> dict[int, str]:
        """Hash -> id of the items that other generations had and this one has not."""
        ids = [item_id for item_id in list(self.others) if self.space.index_of(item_id) < 0]
        return {item_hash(item_id, self._item_key): item_id for item_id in ids}

    def sha256(self) -> str:
        """The checksum of what is loaded, as `schemas.records.Manifest` defines ``items_sha256``."""
        return items_sha256(self.space.ids, self.space.vectors)

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
            self._put(index[newer], vectors[newer], weight[newer])
        return int(newer.sum())

    def _put(
        self, index: npt.NDArray[np.int32], vectors: npt.NDArray[np.float32], weights: npt.NDArray[np.float64]
    ) -> None:
        """A cut publishes vectors as they were loaded: to put them again would only cost bits of the Gramian."""
        space = self.space
        if (vectors != space.vectors[index]).any() or (weights != space.weights[index]).any():
            space.put(index, vectors, weights)
            self._moved += len(index)
