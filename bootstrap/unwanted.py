"""Items in the lists that should not be there: those that the user has suppressed, and those that are withdrawn."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from bootstrap.columns import POSITIVE
from bootstrap.evaluate import item_numbers
from bootstrap.metrics import share_of_places

if TYPE_CHECKING:
    from collections.abc import Container

    from bootstrap.columns import Columns
    from bootstrap.evaluate import Foretold
    from bootstrap.matrix import Matrix


def unwanted(columns: Columns, foretold: Foretold, matrix: Matrix, withdrawn: Container[str]) -> dict[str, float]:
    """The shares of the places in the lists of k.

    Rankers leave out what a record's ``suppressed`` names, so the first share is what they would have to take away;
    the reader lets no event of a withdrawn item through, so the second is above 0 only if something went wrong.
    """
    bad = np.array([item_id in withdrawn for item_id in matrix.item_ids], bool)
    return {
        "suppressed_share": _suppressed_places(columns, foretold, matrix) / max(int((foretold.lists >= 0).sum()), 1),
        "withdrawn_share": share_of_places(foretold.lists, bad),
    }


def _suppressed_places(columns: Columns, foretold: Foretold, matrix: Matrix) -> int:
    """How many places are taken by an item whose newest event up to then, of that user, suppresses it."""
    number = item_numbers(columns, matrix)
    concerned = np.isin(columns.user, columns.user[columns.kind != POSITIVE])
    # Ties suppress: `fold.py` has an item suppressed while the suppressing event is not older.
    order = np.flatnonzero(concerned)
    order = order[np.lexsort((columns.kind[order] != POSITIVE, columns.at[order]))]
    happened: dict[int, list[tuple[int, int, bool]]] = defaultdict(list)
    for event in order.tolist():
        user, item = int(columns.user[event]), int(number[columns.item[event]])
        happened[user].append((int(columns.at[event]), item, bool(columns.kind[event] != POSITIVE)))
    count = 0
    done: dict[int, int] = defaultdict(int)
    hidden: dict[int, set[int]] = defaultdict(set)
    for test in np.flatnonzero(np.isin(foretold.user, list(happened))).tolist():
        user, at = int(foretold.user[test]), int(foretold.at[test])
        events = happened[user]
        while done[user] < len(events) and events[done[user]][0] < at:
            _, item, suppresses = events[done[user]]
            (hidden[user].add if suppresses else hidden[user].discard)(item)
            done[user] += 1
        count += sum(item in hidden[user] for item in foretold.lists[test].tolist() if item >= 0)
    return count
