"""Signals of BPR pairs: one to the owner of the item that was chosen, one to the owner of the item drawn beside it.

Each owner moves its own item only, and knows no other's vector: so a signal brings the score of the pair's other item,
as the user's worker sees it. An event on an item without a vector makes no pair: its signal goes to the item alone,
whose reservoir it feeds; so does that of a user who has had all that was drawn.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.layouts import decode_user_rows, encode_signals
from streamer.events.hashes import partition
from streamer.factors.draw import NOTHING, draw
from streamer.steps.effects import Outgoing
from streamer.steps.fold import Columns
from streamer.steps.items import Items
from streamer.steps.refresh import Generation, Refreshed


def pair_signals(
    columns: Columns,
    fresh: Refreshed,
    names: npt.NDArray[np.uint64],
    items: Items,
    generation: Generation,
) -> list[tuple[int, Outgoing]]:
    """(Partition, signal) of each applied event, the chosen item's first, then the drawn one's.

    names: (T,) hashes of the touched users.
    """
    applied, owner = fresh.applied, fresh.owner
    rows = decode_user_rows(fresh.row, generation.shape)
    had = np.concatenate((rows.item[owner], columns.item[applied][:, None]), axis=1)
    chosen = columns.index[applied]
    at = draw(columns.request[applied], items.frozen_hashes(), had)
    pairs = np.flatnonzero((chosen >= 0) & (at != NOTHING))
    drawn, space = items.frozen[at[pairs]], items.space
    user, of_drawn = fresh.vectors[owner[pairs]].astype(np.float64), np.zeros(len(applied))
    of_drawn[pairs] = np.add.reduce(user * space.vectors[drawn], axis=1)
    of_chosen = np.add.reduce(user * space.vectors[chosen[pairs]], axis=1)

    def signals(which: npt.NDArray[np.intp], other: npt.NDArray[np.float64], sign: float) -> list[bytes]:
        return encode_signals(
            confidence=fresh.confidence[which],
            event_time=columns.timestamp[applied[which]],
            user=names[owner[which]],
            generation=generation.number,
            vector=fresh.vectors[owner[which]],
            pair=(other, np.full(len(which), sign)),
        )

    targets, ids = columns.target[applied].tolist(), [columns.item_id[event].encode() for event in applied.tolist()]
    values = signals(np.arange(len(applied)), of_drawn, 1.0)
    out: list[tuple[int, Outgoing]] = [
        (target, (key, value, None, [])) for target, key, value in zip(targets, ids, values, strict=True)
    ]
    others = [space.ids[number].encode() for number in drawn.tolist()]
    for key, value in zip(others, signals(pairs, of_chosen, -1.0), strict=True):
        out.append((partition(key, len(items.epochs)), (key, value, None, [])))
    return out
