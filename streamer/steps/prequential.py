"""Test, then learn: take a sample of a batch's events, each as it was before it changed anything.

An event is sampled where the hash of its request id is below the share: the same events wherever they are processed,
and however they are cut into batches. An event whose user has earlier ones in the same batch is judged by the row that
these leave, solved by the same functions; after `_EARLIER` of them it is left out, and so is what a batch has beyond
`_MOST`: neither a flood of one user nor a large share may hold the batches up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from schemas.layouts import HEAD, Extras, UserRows, decode_user_rows
from streamer.factors import packed
from streamer.factors.serving import Past
from streamer.factors.weigh import confidence_now, inside_window
from streamer.steps.fold import POSITIVE, Columns, Index, columns_of
from streamer.steps.items import Items
from streamer.steps.refresh import Generation, refresh, serve_rows
from streamer.steps.sampled import Sampled, Trials

Float32Array = npt.NDArray[np.float32]
Indexes = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

_HASHES = 2**64
_MOST = 256
_EARLIER = 32
_GENERATION = slice(HEAD.fields["generation"][1], HEAD.fields["generation"][1] + 8)  # type: ignore[index]


class Sampler:
    """Samples the batches of one generation; reads ``items``, so it is for the thread that moves them."""

    def __init__(self, share: float, model_version: str, items: Items, generation: Generation) -> None:
        """``share`` of the events, above 0."""
        self._limit = np.uint64(min(int(share * _HASHES), _HASHES - 1))
        self._model_version, self._items, self._generation = model_version, items, generation
        self._number = generation.number.to_bytes(8, "little")

    def sample(
        self,
        columns: Columns,
        rows: Sequence[bytes | None],
        applied: Index,
        type_of: Callable[[int], str],
    ) -> Sampled:
        """The sample of a batch.

        Args:
            columns: the good events.
            rows: of each user, before the batch.
            applied: the events that were applied.
            type_of: the event type of a record, by its position.
        """
        counted = columns.index[applied]
        counted = counted[counted >= 0]
        chosen = np.flatnonzero(columns.request <= self._limit)
        if not len(chosen):
            return Sampled(self._model_version, counted)
        effective = np.isin(chosen, applied)
        tested = chosen[effective]
        typed = chosen[effective | (columns.kind[chosen] != POSITIVE)]
        types = [type_of(position) for position in columns.position[typed].tolist()]
        pasts = self._pasts(columns, rows, tested[:_MOST].tolist())
        trials = self._trials(columns, rows, pasts) if pasts else None
        return Sampled(self._model_version, counted, types, columns.index[tested], trials)

    def _pasts(self, columns: Columns, rows: Sequence[bytes | None], events: list[int]) -> dict[int, Index]:
        """Each event that can be judged with its user's earlier ones in the batch.

        It is on a known item, and its user has nothing yet or something in this generation's space, and is no flood.
        """
        pasts = {}
        users, index = np.ascontiguousarray(columns.user), columns.index[events].tolist()
        for event, item in zip(events, index, strict=True):
            user = users[event]
            row = rows[user]
            if item < 0 or (row is not None and row[_GENERATION] != self._number):
                continue
            past = np.flatnonzero(users[:event] == user)
            if len(past) <= _EARLIER:
                pasts[event] = past
        return pasts

    def _trials(self, columns: Columns, rows: Sequence[bytes | None], pasts: Mapping[int, Index]) -> Trials:
        """What was known before these events; one on an item that its user has had already is no test."""
        events = np.fromiter(pasts, np.intp, len(pasts))
        rows = _rows_before(columns, rows, pasts, self._items, self._generation)
        space, item = self._items.space, columns.index[events]
        users = decode_user_rows(rows, self._generation.shape)
        width = max(int(users.head["entries"].max(initial=1)), 1)
        history = space.lookup(users.item[:, :width])
        new = ~(history == item[:, None]).any(axis=1)
        used = np.arange(width) < users.head["entries"][:, None]
        nobody = users.head["version"] == 0
        vector = np.where(nobody[:, None], self._generation.average, users.vector)
        if self._generation.priors is not None:
            if columns.segment is not None:
                # Who has no record is served with the prior of the segment that the event comes from.
                named = columns.segment[events].tolist()
                users.extras |= {row: Extras(segment=named[row]) for row in np.flatnonzero(nobody).tolist()}
            vector = self._served(users, vector, history, used)
        return Trials(
            item[new],
            vector[new],
            space.vectors[item[new]],
            history[new],
            users.strength[new, :width],
            users.time[new, :width],
            used[new],
            users.head["events"].astype(np.int64)[new],
            users.key_time[new, : max(int(users.head["keys"].max(initial=1)), 1)],
            np.array([row in users.extras and bool(users.extras[row].suppressed) for row in range(len(users))])[new],
        )

    def _served(self, users: UserRows, vector: Float32Array, history: Indexes, used: Mask) -> Float32Array:
        """What is published (B, k) of users with these long-term vectors (B, k): a row keeps no more than those.

        The session is solved anew, against the items as they are by now.
        """
        width, users.vector[:] = history.shape[1], vector
        strength, time = users.strength[:, :width], users.time[:, :width]
        confidence = confidence_now(strength, time, used, self._generation.policy)
        inside = inside_window(time, users.head["event_time"][:, None], self._generation.policy)
        past = Past(users.item[:, :width], time, used, np.where(inside, history, np.int32(-1)), confidence)
        return serve_rows(users, np.arange(len(users)), past, self._items, self._generation).vectors


def _rows_before(
    columns: Columns,
    rows: Sequence[bytes | None],
    pasts: Mapping[int, Index],
    items: Items,
    generation: Generation,
) -> list[bytes | None]:
    """The row of each event's user just before the event: what is past of the batch is in it."""
    before = [rows[columns.user[event]] for event in pasts]
    late = [(number, past) for number, past in enumerate(pasts.values()) if len(past)]
    if not late:
        return before
    # As if each were a user of its own, since two events of one user have different pasts.
    which = np.concatenate([past for _, past in late])
    some: npt.NDArray[np.int64] = columns.packed[which]
    some[:, packed.USER] = np.repeat(np.arange(len(late)), [len(past) for _, past in late])
    segment = None if columns.segment is None else columns.segment[which]
    own = columns_of(some, [columns.item_id[event] for event in which.tolist()], segment)
    fresh = refresh(own, [before[number] for number, _ in late], [], items, generation)
    for user, row in zip(fresh.users.tolist(), fresh.row, strict=True):
        before[late[user][0]] = row
    return before
