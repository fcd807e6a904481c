"""The other item of a BPR pair: drawn from the generation's frozen catalogue, seeded by the event.

    position of try t = floor(n * u),  u = splitmix64(request hash + t * golden) / 2^64

The first try that is not among the items that the user has had; none after `TRIES`. The catalogue's order and the
event's hash decide, so every worker and every replay draws the same item.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HashArray = NDArray[np.uint64]
Index = NDArray[np.intp]

TRIES = 8
NOTHING = -1
_GOLDEN = np.uint64(0x9E37_79B9_7F4A_7C15)
_FIRST, _SECOND = np.uint64(0xBF58_476D_1CE4_E5B9), np.uint64(0x94D0_49BB_1331_11EB)
_LOW = np.uint64(0xFFFF_FFFF)


def draw(seeds: HashArray, catalogue: HashArray, had: HashArray) -> Index:
    """The position (E,) in the catalogue of each event's other item, `NOTHING` where every try was had before.

    Args:
        seeds: (E,) request hashes.
        catalogue: (n,) item hashes in the order of their ids.
        had: (E, H) hashes of the items that the event's user has had, this one among them; 0 where unused.
    """
    if not len(catalogue) or not len(seeds):
        return np.full(len(seeds), NOTHING, np.intp)
    tries = _positions(seeds, len(catalogue))
    free = ~(catalogue[tries][:, :, None] == had[:, None, :]).any(axis=2)
    first = free.argmax(axis=1)
    return np.where(free.any(axis=1), tries[np.arange(len(seeds)), first], NOTHING)


def _positions(seeds: HashArray, size: int) -> Index:
    """(E, TRIES) positions below ``size``, which is below 2^32."""
    with np.errstate(over="ignore"):
        z = seeds[:, None] + np.arange(1, TRIES + 1, dtype=np.uint64) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _FIRST
        z = (z ^ (z >> np.uint64(27))) * _SECOND
        z ^= z >> np.uint64(31)
        # floor(z * size / 2^64) without 128 bits.
        many = np.uint64(size)
        high: HashArray = ((z >> np.uint64(32)) * many + (((z & _LOW) * many) >> np.uint64(32))) >> np.uint64(32)
    return high.astype(np.intp)
