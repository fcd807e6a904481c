"""What lists and positions come to: the measures of a ranking, as the field defines them.

An event has one relevant item, found at position p from 0 among all items that its user has not had::

    Recall@k    share of p < k                          NDCG@k   mean of 1/log2(p + 2) over these, 0 for the others
    MAP@k       mean of 1/(p + 1) likewise (one relevant item an event: the mean reciprocal rank)
    hit rate    share of users with some p < k

Of the lists that were shown, whatever was relevant::

    coverage    share of the known items in some list      novelty    mean of -log2 of an item's share of all events
    top_share   share of the places that the most popular hundredth of the items takes
    gini        2 sum i n_i / (m sum n) - (m + 1)/m over the m items in order of their places n: 0 evenly, 1 one item

The first four agree with `ir-measures`, whose Success@k of a user's events is the hit; a test holds them to it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

RANKED = ("recall", "ndcg", "map", "hit_rate")


def ranked(position: F64, user: npt.NDArray[np.integer], k: int) -> dict[str, float]:
    """The measures of positions (events,), infinite for a miss, of these users' (events,) events; 0 of none."""
    found, count = position < k, max(len(position), 1)
    return {
        "recall": float(np.count_nonzero(found)) / count,
        "ndcg": float(np.sum(1 / np.log2(position[found] + 2))) / count,
        "map": float(np.sum(1 / (position[found] + 1))) / count,
        "hit_rate": len(np.unique(user[found])) / max(len(np.unique(user)), 1),
    }


def shown(lists: npt.NDArray[np.int32], events: I64) -> dict[str, float]:
    """The measures of lists (n, k) of item numbers, -1 where there was none to offer; events: (m,) of each item."""
    places = np.bincount(lists[lists >= 0], minlength=len(events))
    total = max(int(places.sum()), 1)
    share = np.maximum(events, 1) / max(int(events.sum()), 1)
    top = np.argsort(-events, kind="stable")[: max(len(places) // 100, 1)]
    return {
        "coverage": float(np.count_nonzero(places)) / max(len(places), 1),
        "novelty": float(np.sum(places * -np.log2(share))) / total,
        "top_share": float(places[top].sum()) / total,
        "gini": gini(places),
    }


def gini(counts: npt.NDArray[np.integer]) -> float:
    """How unevenly a whole is shared out; counts: (m,)."""
    count, total = len(counts), int(counts.sum())
    if not total:
        return 0.0
    order = np.sort(counts).astype(np.float64)
    return float(2 * np.sum(np.arange(1, count + 1) * order) / (count * total) - (count + 1) / count)


def lorenz(counts: npt.NDArray[np.integer], points: int = 101) -> tuple[F64, F64]:
    """The share of the items, most frequent first, and the share of the whole that they take; both (points,)."""
    taken = np.concatenate([[0], np.cumsum(np.sort(counts)[::-1], dtype=np.float64)])
    share = np.linspace(0, 1, points)
    return share, np.interp(share * len(counts), np.arange(len(taken)), taken / max(float(taken[-1]), 1.0))


def share_of_places(lists: npt.NDArray[np.int32], bad: Mask) -> float:
    """The share of the places in lists (n, k), -1 for none, that items of the mask (m,) take."""
    offered = lists[lists >= 0]
    return float(bad[offered].mean()) if len(offered) else 0.0


def of_vectors(items: F32, users: F32, has_history: Mask) -> dict[str, float]:
    """Norms of items (m, k) and users (n, k), and the share of users whose vector stems from a history (n,)."""
    metrics = {f"item_{name}": value for name, value in norms(items).items()}
    metrics |= {f"user_{name}": value for name, value in norms(users).items()}
    return {**metrics, "user_coverage": float(has_history.mean()) if len(has_history) else 0.0}


def norms(vectors: F32) -> dict[str, float]:
    """Median, 99th percentile and largest norm of vectors (n, k); those that are not finite are left to the gates."""
    length = np.linalg.norm(vectors.astype(np.float64), axis=1)
    length = length[np.isfinite(length)]
    if not len(length):
        return {}
    median, high = np.percentile(length, [50, 99]).tolist()
    return {"norm_median": median, "norm_p99": high, "norm_max": float(length.max())}
