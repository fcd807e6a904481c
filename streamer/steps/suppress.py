"""Suppression: hide, dislike and return never become ratings; they keep an item out of a user's recommendations.

In whatever order events arrive, an item is suppressed while its newest suppressing event is not older than its newest
positive one; a return also voids the strength of events up to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs

from schemas.layouts import Extras, Suppression, UserRows

if TYPE_CHECKING:
    from streamer.steps.fold import Columns


def suppress(users: UserRows, user: int, columns: Columns, event: int, returned: bool, capacity: int) -> None:
    """Record one suppressing event; beyond ``capacity`` items the one suppressed longest ago is forgotten."""
    item, at = int(columns.item[event]), int(columns.timestamp[event])
    slot = _slot(users, user, item)
    old = _find(users, user, item)
    if old is None:
        positive = int(users.time[user, slot]) if slot is not None else 0
        old = Suppression(columns.item_id[event], item, at, 0, positive)
    new = Suppression(old.item_id, item, max(old.until, at), max(old.voided, at if returned else 0), old.positive)
    _store(users, user, new, capacity)
    # An entry newer than the return keeps the strength of its older events too: it is one number by then.
    if returned and slot is not None and int(users.time[user, slot]) <= at:
        _remove(users, user, slot)


def lifts(users: UserRows, user: int, columns: Columns, event: int) -> bool:
    """Note a positive event on an item that was suppressed; true if a return has voided the event's strength."""
    old = _find(users, user, int(columns.item[event]))
    if old is None:
        return False
    at = int(columns.timestamp[event])
    if at > old.positive:
        _store(users, user, Suppression(old.item_id, old.item, old.until, old.voided, at), None)
    return at <= old.voided


def _find(users: UserRows, user: int, item: int) -> Suppression | None:
    extras = users.extras.get(user)
    if extras is None:
        return None
    return next((entry for entry in extras.suppressed if entry.item == item), None)


def _store(users: UserRows, user: int, entry: Suppression, capacity: int | None) -> None:
    """Put an entry in its place by item id, so that the bytes do not depend on the order of arrival."""
    extras = users.extras.get(user, Extras())
    others = [old for old in extras.suppressed if old.item != entry.item]
    kept = sorted([*others, entry], key=lambda one: one.item_id)
    if capacity is not None and len(kept) > capacity:
        kept.remove(min(kept, key=lambda one: (one.until, one.item)))
    users.extras[user] = structs.replace(extras, suppressed=tuple(kept))


def _slot(users: UserRows, user: int, item: int) -> int | None:
    found = np.flatnonzero(users.item[user] == np.uint64(item))
    return int(found[0]) if len(found) else None


def _remove(users: UserRows, user: int, slot: int) -> None:
    for column in (users.item, users.time, users.strength):
        column[user, slot:-1] = column[user, slot + 1 :]
        column[user, -1] = 0
    users.head["entries"][user] -= 1
