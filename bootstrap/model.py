"""What a generation is while it is made: item vectors, and every user's row as columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from msgspec import structs

from schemas.layouts import HEAD, Extras, RowShape, Suppression, UserRows, empty_user_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Users:
    """The state of all users, in the order of first appearance; what belongs to several slots is laid end to end.

    events, event_time (ms), source_next, cap_day, cap_count, key_head: (n,) as in `schemas.layouts`.
    history_start: (n + 1,), user u's entries are history_start[u] to history_start[u + 1] of item (hash), time (ms)
    and strength; key_start likewise for request, fingerprint and key_time (s).
    suppressed: of the few users who suppressed anything. segment, segment_at: (n,) as in `schemas.layouts.Extras`,
    None where the policy has no ``segment_key``.
    """

    ids: list[str]
    events: I64
    event_time: I64
    source_next: I64
    cap_day: U32
    cap_count: U32
    key_head: npt.NDArray[np.uint16]
    history_start: I64
    item: U64
    time: I64
    strength: F32
    key_start: I64
    request: U64
    fingerprint: U32
    key_time: U32
    suppressed: Mapping[int, tuple[Suppression, ...]]
    segment: U64 | None = None
    segment_at: I64 | None = None

    def rows(
        self, part: slice, vectors: F32, *, shape: RowShape, generation: int, epochs: I64, version: int
    ) -> UserRows:
        """The users of ``part`` as rows of the stream; vectors: (n, k), epochs: (item partitions,)."""
        ids = range(*part.indices(len(self.ids)))
        rows = empty_user_rows(len(ids), shape)
        head = rows.head
        head["generation"], head["version"] = generation, version
        for name in ("events", "event_time", "source_next", "cap_day", "cap_count", "key_head"):
            head[name] = getattr(self, name)[part]
        rows.vector[:], rows.epochs[:] = vectors[part], epochs
        head["entries"] = _spread(rows, self, ids, self.history_start, ("item", "time", "strength"))
        head["keys"] = _spread(rows, self, ids, self.key_start, ("request", "fingerprint", "key_time"))
        for user in self.suppressed.keys() & set(ids):
            rows.extras[user - ids.start] = Extras(self.suppressed[user])
        if self.segment is not None and self.segment_at is not None:
            for row, (name, at) in enumerate(
                zip(self.segment[part].tolist(), self.segment_at[part].tolist(), strict=True)
            ):
                if name:
                    rows.extras[row] = structs.replace(rows.extras.get(row, Extras()), segment=name, segment_at=at)
        return rows


def _spread(rows: UserRows, users: Users, ids: range, start: I64, names: tuple[str, ...]) -> I64:
    """Lay columns end to end out into padded rows; returns how many slots each row uses."""
    bounds = start[ids.start : ids.stop + 1]
    lengths = np.diff(bounds)
    row = np.repeat(np.arange(len(ids)), lengths)
    slot = np.arange(len(row)) - np.repeat(bounds[:-1] - bounds[0], lengths)
    for name in names:
        getattr(rows, name)[row, slot] = getattr(users, name)[bounds[0] : bounds[-1]]
    return lengths


@dataclass(frozen=True, slots=True)
class Model:
    """Everything that an artifact holds beside its manifest.

    items: (m, k) float32; popularity: (m,) float64, the strength of all users at the cut; item_event_time: (m,) ms;
    user_vectors: (n, k) float32, of the long term; gramian_items, gramian_users: (k, k) float64; average_user: (k,)
    float32, segments: the same of each segment; popularity_user: (k,) float32, where the policy asks for it;
    weights: (m,) of unobserved pairs, None for 1; projected: how many items, the last ones, had no events and have
    their vector from `content.py`.
    With explicit feedback ``mean`` is the ratings' mean, vectors have k + 1 numbers, their bias last, and popularity
    counts ratings; the Gramians are those of the vectors without their biases.
    """

    item_ids: list[str]
    items: F32
    popularity: F64
    item_event_time: I64
    users: Users
    user_vectors: F32
    gramian_items: F64
    gramian_users: F64
    average_user: F32
    projected: int = 0
    mean: float | None = None
    segments: Mapping[str, F32] = field(default_factory=dict)
    popularity_user: F32 | None = None
    weights: F64 | None = None


def begin(item_ids: list[str], start: Mapping[str, F32], width: int) -> F32:
    """Where training begins (items, width) with another generation's vectors; not a number where it has none."""
    began = np.full((len(item_ids), width), np.nan, np.float32)
    for row, item_id in enumerate(item_ids):
        if item_id in start:
            began[row] = start[item_id]
    return began


USER_DTYPES: Mapping[str, Any] = {
    "events": "<i8",
    "event_time": "<i8",
    "source_next": "<i8",
    "cap_day": "<u4",
    "cap_count": "<u4",
    "key_head": "<u2",
}
HISTORY_DTYPES: Mapping[str, Any] = {"item": "<u8", "time": "<i8", "strength": "<f4"}
SEGMENT_DTYPES: Mapping[str, Any] = {"segment": "<u8", "segment_at": "<i8"}
"""Files that an artifact has only where the policy has a ``segment_key``."""
KEY_DTYPES: Mapping[str, Any] = {"request": "<u8", "fingerprint": "<u4", "key_time": "<u4"}

# A change of the row's head must be noticed here.
assert set(USER_DTYPES) < set(HEAD.names or ())
