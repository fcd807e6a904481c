"""The log's events as columns, users and items numbered in the order of their first appearance."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from schemas.records import SUPPRESSING
from streamer.events.hashes import item_hash, segment_hash, segment_name
from streamer.factors.weigh import event_weight, event_weights

if TYPE_CHECKING:
    from bootstrap.read import Log
    from schemas.records import Policy

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
Index = npt.NDArray[np.intp]

POSITIVE, SUPPRESSED, RETURNED = 0, 1, 2
_NAMES = ("user", "item", "kind", "weight", "at", "after", "request", "fingerprint", "segment")


@dataclass(frozen=True, slots=True)
class Columns:
    """E events in log order; all columns (E,).

    kind: `POSITIVE`, `SUPPRESSED` or `RETURNED`; user, item: numbers into ``user_ids`` and ``item_ids``; at: ms;
    after: the source offset that follows. segment: the hash of what the event's context names under the policy's
    ``segment_key``, 0 for none; segment_names: of the hashes. hashes: (items,) of ``item_ids``, all distinct.
    """

    user: Index
    item: Index
    kind: npt.NDArray[np.int8]
    weight: F64
    at: I64
    after: I64
    request: U64
    fingerprint: U32
    segment: U64
    user_ids: list[str]
    item_ids: list[str]
    hashes: U64
    segment_names: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.user)

    def take(self, which: Index) -> Columns:
        """These events only; users and items keep their numbers."""
        columns: dict[str, Any] = {name: getattr(self, name)[which] for name in _NAMES}
        return replace(self, **columns)


def columns_of(log: Log, policy: Policy, item_key: bytes) -> tuple[Columns, int]:
    """The log as columns, and how many events were left out because their item's hash belongs to another item."""
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    hashes: dict[int, str] = {}
    weights = event_weights(policy)
    segments: dict[int, str] = {}
    rows: list[tuple[int, int, int, float, int, int, int, int, int]] = []
    collisions = 0
    for event, request, fingerprint, after in zip(log.events, log.requests, log.fingerprints, log.nexts, strict=True):
        item = items.get(event.item_id)
        if item is None:
            if hashes.setdefault(item_hash(event.item_id, item_key), event.item_id) != event.item_id:
                collisions += 1
                continue
            item = items[event.item_id] = len(items)
        kind, weight = POSITIVE, 0.0
        if event.event_type in SUPPRESSING:
            kind = RETURNED if event.event_type == "return" else SUPPRESSED
        else:
            weight = event_weight(weights, event.event_type, event.value)
        user = users.setdefault(event.user_id, len(users))
        segment = 0
        if policy.segment_key and (name := segment_name(event.context, policy.segment_key)):
            segments[segment := segment_hash(name)] = name
        rows.append((user, item, kind, weight, event.timestamp, after, request, fingerprint, segment))
    # An empty log has no columns to turn.
    turned = list(zip(*rows, strict=True)) or [()] * 9
    types = (np.intp, np.intp, np.int8, np.float64, np.int64, np.int64, np.uint64, np.uint32, np.uint64)
    columns: dict[str, Any] = {
        name: np.array(column, dtype) for name, column, dtype in zip(_NAMES, turned, types, strict=True)
    }
    known = np.fromiter(hashes, np.uint64, len(hashes))
    ids: dict[str, Any] = {"user_ids": list(users), "item_ids": list(items), "hashes": known, "segment_names": segments}
    return Columns(**columns, **ids), collisions
