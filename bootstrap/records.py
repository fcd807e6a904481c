"""The factor records that a generation starts with: version 1 of every vector.

The value is JSON, or with encoding f32le the raw vector and the rest in the header ``factors.record``; the headers are
CloudEvents in binary mode, as the stream writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from schemas.layouts import Suppression

VERSION = 1
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to send: key, value and headers."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes the records of one generation; ``biased``: the last number of each vector (k + 1,) is its bias."""

    source: str
    model_version: str
    training_data_end: int
    encoding: Literal["json", "f32le"]
    biased: bool = False

    def item(
        self, item_id: str, vector: F32, event_time: int, popularity: float | None = None, weight: float = 1.0
    ) -> Outgoing:
        """An item's record; its ``events`` count what the stream applies, so they start at 0. vector: (k,).

        ``popularity``: relative to the mean, where the stream's item updates are balanced by it; ``weight``: of an
        unobserved pair.
        """
        rest = {"events": 0, "event_time": event_time, "items_epoch": []} | ({"weight": weight} if weight != 1 else {})
        if popularity is not None:
            rest["popularity"] = float(np.float32(popularity))
        return self._record("item", item_id, vector, rest)

    def user(
        self,
        user_id: str,
        vector: F32,
        *,
        events: int,
        event_time: int,
        epochs: Sequence[int],
        suppressed: Sequence[Suppression],
        made_of: Mapping[str, Any],
        session: F32 | None = None,
    ) -> Outgoing:
        """A user's record.

        vector, session: (k,); made_of: basis and shares, as `serving.Served.made_of` has them; epochs: for each item
        partition the offset that its vectors end at.
        """
        rest: dict[str, Any] = {
            "events": events,
            "event_time": event_time,
            "items_epoch": epochs,
            "suppressed": [entry.item_id for entry in suppressed if entry.until >= entry.positive],
            **made_of,
        }
        if session is not None:
            rest["session"] = np.ascontiguousarray(session)
        return self._record("user", user_id, vector, rest)

    def _record(self, kind: str, entity: str, vector: F32, rest: dict[str, Any]) -> Outgoing:
        if self.biased:
            rest, vector = {**rest, "bias": vector[-1]}, vector[:-1]
        about = {
            "id": entity,
            "kind": kind,
            "dimension": len(vector),
            "model_version": self.model_version,
            "version": VERSION,
            **rest,
            "training_data_end": self.training_data_end,
        }
        raw = self.encoding == "f32le"
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_type", f"factors.{kind}.refreshed.v1".encode()),
            ("ce_source", self.source.encode()),
            ("ce_id", f"{entity}/{VERSION}".encode()),
            ("content-type", b"application/octet-stream" if raw else b"application/json"),
        ]
        if raw:
            value = vector.astype("<f4").tobytes()
            headers.append(("factors.record", orjson.dumps(about, option=orjson.OPT_SERIALIZE_NUMPY)))
        else:
            # orjson writes the shortest text that reads back as the same float32.
            value = orjson.dumps({**about, "vector": vector}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Outgoing(entity.encode(), value, headers)
