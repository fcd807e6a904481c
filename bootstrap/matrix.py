"""The confidence matrix of all histories, weighed by the stream's own functions, once for each side.

A user's ages count from the newest entry of that user's history, exactly as in the stream; an item's count from the
training cut, the newest event of the log, since its users stopped at different times. An entry outside of its user's
window is in neither: not in the user's row, not in the item's column, not in what is popular.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from streamer.factors.weigh import confidence_array, decay_array, inside_window, strength_at

if TYPE_CHECKING:
    from bootstrap.columns import Columns
    from bootstrap.model import Users
    from schemas.records import Policy

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Matrix:
    """by_user: (n, m) c seen from the users; by_item: (m, n) c seen from the items; both float64.

    confidence: (entries,) c of each entry that counts as the stream solves with it: by_user's, with recency.
    entry_item: (entries,) item number of each of them, end to end as in `counted`; by_user keeps that order
    within a row. item_ids (sorted), hashes, popularity (strength at the cut), event_time (ms): (m,).
    """

    by_user: csr_array
    by_item: csr_array
    confidence: F64
    entry_item: npt.NDArray[np.int32]
    item_ids: list[str]
    hashes: U64
    popularity: F64
    event_time: I64


def build(columns: Columns, users: Users, policy: Policy, cut_ms: int) -> Matrix:
    """The matrix of every item that counts for some user; ``cut_ms`` is the newest time that items measure age from."""
    n, users = len(users.ids), counted(users, policy)
    kept, entry_item = placed(columns, users)
    lengths = np.diff(users.history_start)
    newest = np.repeat(newest_entry(users), lengths)
    at_user = strength_at(users.strength, users.time, newest, policy.half_life_ms)
    at_cut = strength_at(users.strength, users.time, np.full(len(newest), cut_ms), policy.half_life_ms)
    event_time = np.zeros(len(kept), np.int64)
    np.maximum.at(event_time, entry_item, users.time)
    shape = (n, len(kept))
    confidence = confidence_array(at_user, policy)
    by_user = csr_array((confidence, entry_item, users.history_start), shape=shape)
    from_cut = csr_array((confidence_array(at_cut, policy), entry_item, users.history_start), shape=shape)
    return Matrix(
        by_user=by_user,
        confidence=_faded(confidence, users, policy),
        by_item=csr_array(from_cut.T.tocsr()),
        entry_item=entry_item,
        item_ids=[columns.item_ids[item] for item in kept.tolist()],
        hashes=columns.hashes[kept],
        popularity=np.bincount(entry_item, weights=at_cut, minlength=len(kept)).astype(np.float64),
        event_time=event_time,
    )


def counted(users: Users, policy: Policy) -> Users:
    """The users with the history entries alone that are inside of their windows, as `weigh.inside_window` has it."""
    lengths = np.diff(users.history_start)
    inside = inside_window(users.time, np.repeat(users.event_time, lengths), policy)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(inside)])
    kept = {name: getattr(users, name)[inside] for name in ("item", "time", "strength")}
    return replace(users, history_start=before[users.history_start], **kept)


def placed(columns: Columns, users: Users) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32]]:
    """The columns' items that are in some history (m,), by id; and of each history entry which of them it is."""
    sorted_hashes = np.sort(columns.hashes)
    number = np.argsort(columns.hashes, kind="stable")[np.searchsorted(sorted_hashes, users.item)]
    # By id, so that sums over the items run in one order wherever they are made.
    kept = np.array(sorted(set(number.tolist()), key=columns.item_ids.__getitem__), np.intp)
    place = np.zeros(len(columns.item_ids), np.int32)
    place[kept] = np.arange(len(kept))
    return kept, place[number]


def widened(matrix: Matrix, item_ids: list[str], hashes: U64) -> Matrix:
    """The matrix with more items behind its own, none of them in any history; by_user and by_item stay as they are."""
    none = np.zeros(len(item_ids))
    return replace(
        matrix,
        item_ids=matrix.item_ids + item_ids,
        hashes=np.concatenate([matrix.hashes, hashes]),
        popularity=np.concatenate([matrix.popularity, none]),
        event_time=np.concatenate([matrix.event_time, none.astype(np.int64)]),
    )


def _faded(confidence: F64, users: Users, policy: Policy) -> F64:
    """Recency, as `streamer.factors.weigh.confidence_now` has it. Items are trained on all that was liked, evenly."""
    if not policy.recency_entries:
        return confidence
    share = decay_array(newer_of(users), policy.recency_entries)
    return np.asarray(1.0 + (confidence - 1.0) * share, np.float64)


def newer_of(users: Users) -> I64:
    """(entries,) how many entries of the same user have a newer time, as `streamer.factors.weigh.newer_entries`."""
    user = np.repeat(np.arange(len(users.ids)), np.diff(users.history_start))
    order = np.lexsort((-users.time, user))
    time, owner = users.time[order], user[order]
    # The first of each run of equal times: as many entries of that user are newer as lie before it.
    first = np.flatnonzero(np.r_[True, (owner[1:] != owner[:-1]) | (time[1:] != time[:-1])])
    run = np.repeat(first, np.diff(np.r_[first, len(order)]))
    newer = np.empty(len(order), np.int64)
    newer[order] = run - users.history_start[owner]
    return newer


def weights_of(matrix: Matrix, power: float) -> F64 | None:
    """What an unobserved pair of each item weighs (m,): n^power over its mean, n users of the item; None for 1.

    As eALS has it (He et al. 2016, doi 10.1145/2911451.2911489): the more popular an item, the likelier that who did
    not take it did not want it. Items without events (`widened`) weigh 1.
    """
    if not power:
        return None
    pairs = np.diff(matrix.by_item.indptr)
    share = pairs.astype(np.float64) ** power / unobserved_mean(pairs, power)
    return np.concatenate([share, np.ones(len(matrix.item_ids) - len(share))])


def unobserved_mean(pairs: npt.NDArray[np.integer], power: float) -> float:
    """The mean of n^power of items with so many pairs each (m,); workers weigh new items by it."""
    return float((pairs.astype(np.float64) ** power).mean()) if len(pairs) else 1.0


def newest_entry(users: Users) -> I64:
    """(n,) the time that each user's ages count from; 0 for a user without history."""
    newest = np.zeros(len(users.ids), np.int64)
    np.maximum.at(newest, np.repeat(np.arange(len(newest)), np.diff(users.history_start)), users.time)
    return newest
