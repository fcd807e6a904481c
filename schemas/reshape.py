"""User rows of one shape as rows of another: what a generation of another dimension or other capacities finds.

Entries and keys stay as they are; where the new shape has less room the oldest go, by the rule by which a full history
evicts (smallest time, then smallest item hash) and in the order in which the ring of keys is overwritten. The vector is
zero: it belongs to the old space.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.layouts import RowShape, UserRows, empty_user_rows

_HISTORY = ("item", "time", "strength")
_KEYS = ("request", "fingerprint", "key_time")


def reshape_user_rows(rows: UserRows, shape: RowShape) -> UserRows:
    """The same users in rows of ``shape``; the number of item partitions must be the same."""
    if rows.shape.epochs != shape.epochs:
        raise ValueError(f"rows know {rows.shape.epochs} item partitions, not {shape.epochs}: they never change")
    out = empty_user_rows(len(rows), shape)
    dimension = out.head["dimension"].copy()
    out.head[:] = rows.head
    out.head["dimension"], out.epochs[:], out.extras = dimension, rows.epochs, dict(rows.extras)
    for user in range(len(rows)):
        _move(rows, out, user, _newest_entries(rows, user, shape.history), _HISTORY, "entries")
        _move(rows, out, user, _newest_keys(rows, user, shape.keys), _KEYS, "keys")
    # Keys lie oldest first now, so the slot written next is the one behind the last, or the first of a full ring.
    out.head["key_head"] = out.head["keys"] % shape.keys
    return out


def _newest_entries(rows: UserRows, user: int, most: int) -> npt.NDArray[np.intp]:
    """Slots to keep, in their order."""
    count = int(rows.head["entries"][user])
    order = np.lexsort((rows.item[user, :count], rows.time[user, :count]))
    return np.sort(order[max(count - most, 0) :])


def _newest_keys(rows: UserRows, user: int, most: int) -> npt.NDArray[np.intp]:
    """Slots to keep, oldest first: a ring that is full begins at its head."""
    count, first = int(rows.head["keys"][user]), int(rows.head["key_head"][user])
    full = count == rows.shape.keys
    order = (np.arange(count) + (first if full else 0)) % max(count, 1)
    return order[max(count - most, 0) :]


def _move(
    rows: UserRows, out: UserRows, user: int, slots: npt.NDArray[np.intp], names: tuple[str, ...], count: str
) -> None:
    out.head[count][user] = len(slots)
    for name in names:
        getattr(out, name)[user, : len(slots)] = getattr(rows, name)[user, slots]
