"""What an approximate index loses on these vectors: its first k beside the exact first k by inner product.

    recall@k = mean over users of |first k of the index, first k exactly| / k

The index is usearch's HNSW (the extra ``ann``), as a consumer of the vectors would build it. Vectors whose norms differ
widely are hard to search by inner product; this says how hard.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

_ASKED = 1_000
MISSING = "usearch is not installed: pip install 'streaming-factors[ann]'"


def installed() -> bool:
    """Whether there is an index to try."""
    return _library() is not None


def ann_recall(items: F32, users: F32, k: int) -> float | None:
    """recall@k of an index of items (m, k) for a spread of users (n, k); None where there is no library or no vector.

    Vectors that are not finite are left out: other gates refuse them.
    """
    library = _library()
    items, users = (side[np.isfinite(side).all(axis=1)] for side in (items, users))
    if library is None or not len(items) or not len(users):
        return None
    asked = users[np.linspace(0, len(users) - 1, min(_ASKED, len(users))).astype(int)]
    k = min(k, len(items))
    index = library.Index(ndim=items.shape[1], metric="ip", dtype="f32")
    # One thread: in which order items enter decides the graph, and so the last digits.
    index.add(np.arange(len(items), dtype=np.uint64), items, threads=1)
    found = np.asarray(index.search(asked, k, threads=1).keys).reshape(len(asked), -1).astype(np.int64)
    exact = np.argpartition(-(asked @ items.T), k - 1, axis=1)[:, :k]
    return float(np.mean([len(np.intersect1d(ours, theirs)) / k for ours, theirs in zip(found, exact, strict=True)]))


def _library() -> Any:
    try:
        return importlib.import_module("usearch.index")
    except ImportError:
        return None
