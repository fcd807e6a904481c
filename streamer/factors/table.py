"""A map from 64-bit hashes to small integers that numpy can ask many questions at once.

Open addressing with linear probing over two arrays. The hashes are keyed and uniform (`item_hash`), so their low bits
are the slot; the value 0 is never a hash and marks an empty slot. Nothing is ever removed: an item that is withdrawn
keeps its index.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

HashArray = NDArray[np.uint64]
IndexArray = NDArray[np.int32]

_LOWEST_BITS = 8


class HashTable:
    """Bulk `insert` and `lookup`; at most a quarter of the slots are in use, so most questions end at the first."""

    def __init__(self, capacity: int = 0) -> None:
        self._count = 0
        self._allocate(capacity)

    def __len__(self) -> int:
        return self._count

    @property
    def slots(self) -> tuple[HashArray, IndexArray]:
        """The two arrays, for the compiled kernel's own search: `hash & (size - 1)`, then slot by slot to a 0."""
        return self._keys, self._values

    def lookup(self, hashes: HashArray) -> IndexArray:
        """Return the value of each hash, -1 where it is unknown or 0. hashes: any shape, uint64."""
        flat = hashes.reshape(-1)
        slot = (flat & self._mask).view(np.int64)
        found = self._keys.take(slot)
        values: IndexArray = self._values.take(slot)
        miss = np.flatnonzero(found != flat)
        values[miss] = -1
        # An empty slot ends a search; what is left met another hash and looks one slot further.
        pending = miss[(found.take(miss) != 0) & (flat.take(miss) != 0)]
        mask = int(self._mask)
        slot = slot.take(pending)
        while pending.size:
            slot = (slot + 1) & mask
            found = self._keys.take(slot)
            hit = found == flat.take(pending)
            values[pending[hit]] = self._values.take(slot[hit])
            on = ~hit & (found != 0)
            pending, slot = pending[on], slot[on]
        return values.reshape(hashes.shape)

    def insert(self, hashes: HashArray, values: IndexArray) -> None:
        """Add distinct hashes that are not in the table yet, none of them 0. Both (n,)."""
        if self._count + hashes.size > self._keys.size // 4:
            keys, old = self._keys, self._values
            self._allocate(2 * (self._count + hashes.size))
            used = keys != 0
            self._place(keys[used], old[used])
        self._place(hashes, values)
        self._count += hashes.size

    def _allocate(self, capacity: int) -> None:
        size = 1 << max(_LOWEST_BITS, (4 * capacity - 1).bit_length())
        self._mask: Any = np.uint64(size - 1)
        self._keys: HashArray = np.zeros(size, dtype=np.uint64)
        self._values: IndexArray = np.full(size, -1, dtype=np.int32)

    def _place(self, hashes: HashArray, values: IndexArray) -> None:
        mask = int(self._mask)
        slot = (hashes & self._mask).view(np.int64)
        while hashes.size:
            free = self._keys.take(slot) == 0
            self._keys[slot[free]] = hashes[free]
            # Two newcomers may have written the same slot: whoever is read back has won it.
            won = self._keys.take(slot) == hashes
            self._values[slot[won]] = values[won]
            left = ~won
            hashes, values, slot = hashes[left], values[left], (slot[left] + 1) & mask
