"""The checksum of a generation's item vectors, by which a worker knows that it loaded what was trained."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray


def items_sha256(item_ids: Sequence[str], vectors: NDArray[np.float32]) -> str:
    """SHA-256, hexadecimal, over the items in the order of their ids' UTF-8: id, zero byte, vector (k,) as ``<f4``."""
    names = [item_id.encode() for item_id in item_ids]
    rows = np.ascontiguousarray(vectors, "<f4")
    digest = sha256()
    for at in sorted(range(len(names)), key=names.__getitem__):
        digest.update(names[at] + b"\0")
        digest.update(rows[at].tobytes())
    return digest.hexdigest()
