"""Fold the log into every user's row, with the stream's own history function.

What the stream decides event by event about suppression is order-free at its best, and here the whole log is known: an
item is suppressed while its newest suppressing event is not older than its newest positive one, and a return voids the
strength of events up to it. It is not order-free where a suppression set was full, where an item was
suppressed after it had been in a full history, and where a return came after a newer act on its item: these users are
gone through event by event (`row.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bootstrap.columns import POSITIVE, RETURNED, Columns
from bootstrap.model import Users
from bootstrap.row import Row
from schemas.layouts import Suppression
from schemas.records import DAY_MS
from streamer.errors import DataError
from streamer.factors.explicit import merge_of
from streamer.factors.history import fold_users

if TYPE_CHECKING:
    from schemas.records import Policy

I64 = npt.NDArray[np.int64]
Index = npt.NDArray[np.intp]

# Users a pass: a pass needs 20 bytes a user and history slot.
_USERS = 1 << 16


def fold(columns: Columns, policy: Policy) -> Users:
    """Every user's history, counters, idempotency keys and suppressed items."""
    rows = _rows(columns, policy)
    suppressed, voided = _suppressed(columns, policy.suppress_capacity)
    positive = columns.kind == POSITIVE
    if rows:
        # All that is positive, so that there is room for what their rows hold.
        voided &= ~np.isin(columns.user, list(rows))
        suppressed |= _sets(rows, columns)
    weighed = np.flatnonzero(positive & ~voided)
    n = len(columns.user_ids)
    applied, user, at = np.bincount(columns.user[positive], minlength=n), columns.user, columns.at
    newest, after = np.zeros(n, np.int64), np.zeros(n, np.int64)
    np.maximum.at(newest, user, at)
    np.maximum.at(after, user, columns.after)
    day = np.zeros(n, np.int64)
    np.maximum.at(day, user[positive], at[positive] // DAY_MS)
    on_day = positive & (at // DAY_MS == day[user])
    return Users(
        ids=columns.user_ids,
        events=applied.astype(np.int64),
        event_time=newest,
        source_next=after,
        cap_day=day.astype(np.uint32),
        cap_count=np.bincount(user[on_day], minlength=n).astype(np.uint32),
        suppressed=suppressed,
        **_segments(columns, policy),
        **_histories(columns, weighed, policy, rows),
        **_keys(columns, policy.keys_capacity),
    )


class NothingKeptError(DataError):
    """No event is left that anything could be learned from."""


def expect_history(users: Users) -> None:
    """Refuse to train where nobody has a history.

    Raises:
        NothingKeptError: nothing but suppressing events, or all that was taken was returned.
    """
    if not len(users.item):
        raise NothingKeptError("nothing to train on: no event is a positive one that was not taken back by a return.")


def _segments(columns: Columns, policy: Policy) -> dict[str, Any]:
    """The segment columns of `Users`: what the newest event named, of two at the same time the greater hash."""
    if not policy.segment_key:
        return {}
    named = np.flatnonzero(columns.segment)
    order = named[np.lexsort((columns.segment[named], columns.at[named]))]
    found, at = np.zeros(len(columns.user_ids), np.uint64), np.zeros(len(columns.user_ids), np.int64)
    # The last assignment of a user counts.
    for user, event in zip(columns.user[order].tolist(), order.tolist(), strict=True):
        found[user], at[user] = columns.segment[event], columns.at[event]
    return {"segment": found, "segment_at": at}


def _rows(columns: Columns, policy: Policy) -> dict[int, Row]:
    """The rows of the users whose order of events matters, by number."""
    user, item = columns.user, columns.item
    suppressing = np.flatnonzero(columns.kind != POSITIVE)
    if not len(suppressing):
        return {}
    wide = np.int64(len(columns.item_ids))
    who = np.zeros(len(columns.user_ids), bool)
    who[user[suppressing]] = True
    of_those = np.flatnonzero(who[user] & (columns.kind == POSITIVE))
    liked = np.unique(user[of_those] * wide + item[of_those])
    full = np.bincount(liked // wide, minlength=len(who)) > policy.history_capacity
    hidden = np.unique(user[suppressing] * wide + item[suppressing])
    forgetful = np.bincount(hidden // wide, minlength=len(who)) > policy.suppress_capacity
    replayed = np.union1d(np.flatnonzero(forgetful), _entangled(columns, of_those, full))
    return _gone_through(columns, replayed, policy)


def _entangled(columns: Columns, positive: Index, full: npt.NDArray[np.bool_]) -> Index:
    """The users of whom a suppressing event came after an act on its item, and it matters in what order.

    It does where the history was full (``full``: (users,)), or a return was older than the act. positive: events.
    """
    suppressing = np.flatnonzero(columns.kind != POSITIVE)
    pair = columns.user * np.int64(len(columns.item_ids)) + columns.item
    events = np.concatenate([positive[np.isin(pair[positive], pair[suppressing])], suppressing])
    events.sort()
    newest: dict[int, int] = {}
    found: set[int] = set()
    acts = (columns.user[events], pair[events], columns.kind[events], columns.at[events])
    for user, key, kind, at in zip(*(column.tolist() for column in acts), strict=True):
        if kind == POSITIVE:
            newest[key] = max(newest.get(key, at), at)
        elif key in newest and (full[user] or (kind == RETURNED and newest[key] > at)):
            found.add(user)
    return np.array(sorted(found), np.intp)


def _gone_through(columns: Columns, users: Index, policy: Policy) -> dict[int, Row]:
    """These users' rows, event by event."""
    rows = {user: Row() for user in users.tolist()}
    events = np.flatnonzero(np.isin(columns.user, users)) if rows else np.zeros(0, np.intp)
    acts = zip(
        columns.user[events].tolist(),
        columns.hashes[columns.item[events]].tolist(),
        columns.kind[events].tolist(),
        columns.weight[events].tolist(),
        columns.at[events].tolist(),
        strict=True,
    )
    for user, item, kind, weight, at in acts:
        if kind == POSITIVE:
            rows[user].like(item, weight, at, policy)
        else:
            rows[user].suppress(item, at, returned=kind == RETURNED, capacity=policy.suppress_capacity)
    return rows


def _sets(rows: dict[int, Row], columns: Columns) -> dict[int, tuple[Suppression, ...]]:
    """The rows' suppression sets, by item id as the stream keeps it."""
    item_id = dict(zip(columns.hashes.tolist(), columns.item_ids, strict=True))
    sets = {}
    for user, row in rows.items():
        entries = (
            Suppression(item_id[item], item, one.until, one.voided, one.positive)
            for item, one in row.suppressed.items()
        )
        sets[user] = tuple(sorted(entries, key=lambda entry: entry.item_id))
    return sets


def _histories(columns: Columns, events: Index, policy: Policy, rows: dict[int, Row]) -> dict[str, Any]:
    """The history columns of `Users`, a pass of users at a time; ``rows``: of users whose history is known already."""
    n = len(columns.user_ids)
    order = events[np.argsort(columns.user[events], kind="stable")]
    bounds = np.searchsorted(columns.user[order], np.arange(0, n + _USERS, _USERS))
    counts, items, times, strengths = [np.zeros(1, np.int64)], [], [], []
    for first, lower, upper in zip(range(0, n, _USERS), bounds, bounds[1:], strict=False):
        part = order[lower:upper]
        folded = fold_users(
            columns.user[part] - first,
            columns.hashes[columns.item[part]],
            columns.weight[part],
            columns.at[part],
            users=min(_USERS, n - first),
            capacity=policy.history_capacity,
            half_life_ms=policy.half_life_ms,
            merge=merge_of(policy),
        )
        for user, row in rows.items():
            if first <= user < first + _USERS:
                folded.count[user - first] = count = len(row.entries)
                known = folded.items[user - first], folded.strength[user - first], folded.time[user - first]
                for column, values in zip(known, row.history(), strict=True):
                    column[:count] = values
        used = np.arange(folded.items.shape[1]) < folded.count[:, None]
        counts.append(folded.count)
        items.append(folded.items[used])
        times.append(folded.time[used])
        strengths.append(folded.strength[used])
    return {
        "history_start": np.cumsum(np.concatenate(counts)),
        "item": np.concatenate([np.zeros(0, np.uint64), *items]),
        "time": np.concatenate([np.zeros(0, np.int64), *times]),
        "strength": np.concatenate([np.zeros(0, np.float32), *strengths]),
    }


def _keys(columns: Columns, capacity: int) -> dict[str, Any]:
    """The idempotency keys of each user's last events, in the slots of the stream's ring."""
    n = len(columns.user_ids)
    order = np.argsort(columns.user, kind="stable")
    user = columns.user[order]
    total = np.bincount(user, minlength=n)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(total) - total, total)
    kept = rank >= total[user] - capacity
    order, user, slot = order[kept], user[kept], rank[kept] % capacity
    order = order[np.lexsort((slot, user))]
    return {
        "key_start": np.concatenate([np.zeros(1, np.int64), np.cumsum(np.minimum(total, capacity))]),
        "key_head": (total % capacity).astype(np.uint16),
        "request": columns.request[order],
        "fingerprint": columns.fingerprint[order],
        "key_time": (columns.at[order] // 1000).astype(np.uint32),
    }


def _suppressed(columns: Columns, capacity: int) -> tuple[dict[int, tuple[Suppression, ...]], npt.NDArray[np.bool_]]:
    """Each user's suppression set, by item id as the stream keeps it; and which positive events a return voids."""
    voided = np.zeros(len(columns), bool)
    found: dict[tuple[int, int], list[int]] = {}
    for event in np.flatnonzero(columns.kind != POSITIVE).tolist():
        pair = (int(columns.user[event]), int(columns.item[event]))
        entry, at = found.setdefault(pair, [0, 0, 0]), int(columns.at[event])
        entry[0] = max(entry[0], at)
        entry[1] = max(entry[1], at if columns.kind[event] == RETURNED else 0)
    if not found:
        return {}, voided
    concerned = np.isin(columns.user, np.unique([user for user, _ in found])) & (columns.kind == POSITIVE)
    for event in np.flatnonzero(concerned).tolist():
        entry_or_none = found.get((int(columns.user[event]), int(columns.item[event])))
        if entry_or_none is not None:
            entry_or_none[2] = max(entry_or_none[2], int(columns.at[event]))
            voided[event] = columns.at[event] <= entry_or_none[1]
    sets: dict[int, list[Suppression]] = {}
    for (user, item), (until, void, positive) in found.items():
        suppression = Suppression(columns.item_ids[item], int(columns.hashes[item]), until, void, positive)
        sets.setdefault(user, []).append(suppression)
    return {user: _bounded(entries, capacity) for user, entries in sets.items()}, voided


def _bounded(entries: list[Suppression], capacity: int) -> tuple[Suppression, ...]:
    newest = sorted(entries, key=lambda entry: (entry.until, entry.item))[-capacity:]
    return tuple(sorted(newest, key=lambda entry: entry.item_id))
