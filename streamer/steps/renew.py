"""Bring user rows of another generation into this one: solve each anew from its kept history.

A user whose row changes its generation is a user of the new space from then on, and has been from the first event that
the new model was not trained on: for each entry newer than the training data the item's owner gets the signal that it
would have got, had the event come after the cut. A row changes its generation once, so each signal is sent once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.layouts import RowShape, UserRows, decode_user_rows, encode_user_rows, generation_of
from schemas.reshape import reshape_user_rows
from streamer.steps.fold import Index
from streamer.steps.items import Items
from streamer.steps.refresh import Generation, Refreshed, refreshed, serve_rows, solve_rows

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Signals:
    """Signals to item owners, in order: owner, confidence, event_time (S,): of the user's position, the weight, the ms.

    item_ids and targets: the items and the partitions of their owners.
    """

    owner: Index
    confidence: npt.NDArray[np.float64]
    event_time: npt.NDArray[np.int64]
    item_ids: list[str]
    targets: list[int]


@dataclass(frozen=True, slots=True)
class Renewed:
    """The users in the new generation, and what their items' owners have to hear."""

    users: Refreshed
    signals: Signals


def renew(
    rows: Sequence[bytes | None], shapes: Mapping[int, RowShape], items: Items, generation: Generation, since: IntArray
) -> Renewed:
    """Renew rows, none of which is None; since: (rows,) ms, the newest event that each one's items have heard of."""
    users = _rows_of([row for row in rows if row is not None], shapes, generation.shape)
    everyone = np.arange(len(users))
    facts: dict[str, float] = {}
    past = solve_rows(users, everyone, items, generation, facts)
    served = None if generation.priors is None else serve_rows(users, everyone, past, items, generation)
    fresh = refreshed(users, everyone, served, generation, facts)
    return Renewed(fresh, _signals(users, past.confidence, items, since))


def _rows_of(rows: Sequence[bytes], shapes: Mapping[int, RowShape], shape: RowShape) -> UserRows:
    """The rows as columns, in their order, whatever shapes their generations have."""
    found = [shapes.get(generation_of(row), shape) for row in rows]
    if all(one == shape for one in found):
        return decode_user_rows(rows, shape)
    converted: dict[int, bytes] = {}
    for other in dict.fromkeys(found):
        mine = [number for number, one in enumerate(found) if one == other]
        decoded = decode_user_rows([rows[number] for number in mine], other)
        converted |= zip(mine, encode_user_rows(reshape_user_rows(decoded, shape)), strict=True)
    return decode_user_rows([converted[number] for number in range(len(rows))], shape)


def _signals(users: UserRows, confidence: npt.NDArray[Any], items: Items, since: IntArray) -> Signals:
    width = confidence.shape[1]
    index = items.space.lookup(users.item[:, :width])
    used = np.arange(width) < users.head["entries"][:, None]
    newer = used & (users.time[:, :width] > since[:, None])
    # An item that only the generation before had folded in comes back sooner if its users are heard of at once.
    missing = newer & (index < 0)
    others = items.other_hashes() if missing.any() else {}
    gone = missing & np.isin(users.item[:, :width], np.fromiter(others, np.uint64, len(others)))
    owner, slot = np.nonzero((newer & (index >= 0)) | gone)
    ids = [
        items.space.ids[at] if at >= 0 else others[item]
        for at, item in zip(index[owner, slot].tolist(), users.item[owner, slot].tolist(), strict=True)
    ]
    return Signals(
        owner,
        confidence[owner, slot],
        users.time[owner, slot],
        ids,
        [items.of(item_id)[2] for item_id in ids],
    )
