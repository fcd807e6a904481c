"""The records that a step publishes: factor records and dead letters.

value   JSON, or with encoding f32le the raw vector and the rest in the header `factors.record`
headers CloudEvents 1.0 binary mode, `factors.source` (topic/partition/offset), `traceparent` where the event had one
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from schemas.outcomes import Reason
from streamer.events.verdicts import FieldError
from streamer.steps.effects import Headers, Outgoing

Kind = Literal["user", "item"]
_EXPLAINED = 10


@dataclass(frozen=True, slots=True)
class Publisher:
    """Makes factor records of one kind and generation; all parts that never change are encoded once."""

    kind: Kind
    source: str
    model_version: str
    dimension: int
    training_data_end: int
    encoding: Literal["json", "f32le"]

    def records(
        self,
        keys: Sequence[bytes],
        vectors: npt.NDArray[np.float32],
        versions: Sequence[int],
        events: Sequence[int],
        event_times: Sequence[int],
        extras: Sequence[bytes],
        offsets: Sequence[bytes],
        epochs: Sequence[int],
        trace: dict[int, bytes],
    ) -> list[Outgoing]:
        """One record a key.

        vectors: (n, k); extras: JSON fields to append, each starting with a comma, or empty;
        offsets: ``topic/partition/offset`` of the newest event in it; trace: position -> traceparent.
        """
        raw = self.encoding == "f32le"
        values = self._raw(vectors) if raw else self._texts(vectors)
        content = b"application/octet-stream" if raw else b"application/json"
        fixed: Headers = [
            ("ce_specversion", b"1.0"),
            ("ce_type", b"factors.%b.refreshed.v1" % self.kind.encode()),
            ("ce_source", self.source.encode()),
            ("content-type", content),
        ]
        tail = b',"dimension":%d,"model_version":%b,"version":' % (
            self.dimension,
            orjson.dumps(self.model_version),
        )
        closing = b',"items_epoch":%b,"training_data_end":%d' % (
            orjson.dumps(list(epochs)),
            self.training_data_end,
        )
        kind = b',"kind":"%b","vector":' % self.kind.encode()
        out: list[Outgoing] = []
        rows = zip(keys, values, versions, events, event_times, extras, offsets, strict=True)
        for position, (key, vector, version, count, at, extra, offset) in enumerate(rows):
            name = _json_text(key)
            rest = b'%b%d,"events":%d,"event_time":%d%b%b}' % (tail, version, count, at, closing, extra)
            headers = [*fixed, ("ce_id", b"%b/%d" % (key, version)), ("factors.source", offset)]
            if raw:
                value = vector
                headers.append(("factors.record", b'{"id":%b,"kind":"%b"%b' % (name, self.kind.encode(), rest)))
            else:
                value = b'{"id":%b%b%b%b' % (name, kind, vector, rest)
            if position in trace:
                headers.append(("traceparent", trace[position]))
            out.append((key, value, None, headers))
        return out

    @staticmethod
    def _texts(vectors: npt.NDArray[np.float32]) -> list[bytes]:
        """Each row as a JSON array of the exact float32 values: one call for the whole matrix, cut at the seams."""
        if not len(vectors):
            return []
        whole = orjson.dumps(np.ascontiguousarray(vectors), option=orjson.OPT_SERIALIZE_NUMPY)
        return [b"[%b]" % row for row in whole[2:-2].split(b"],[")]

    @staticmethod
    def _raw(vectors: npt.NDArray[np.float32]) -> list[bytes]:
        data, size = vectors.astype("<f4").tobytes(), 4 * vectors.shape[1]
        return [data[at : at + size] for at in range(0, len(data), size)]


def dead_letter(record: Any, topic: str, reason: Reason | str, errors: Sequence[FieldError]) -> Outgoing:
    """The record as it came, with the reason; KIP-1034's headers, the message free of payload beyond short excerpts."""
    listed = [{"path": error.path, "message": error.message} for error in errors]
    message = "; ".join(str(error) for error in errors[:_EXPLAINED]) or str(reason)
    headers: Headers = [
        *((name, value if value is not None else b"") for name, value in record.headers),
        ("__streams.errors.topic", topic.encode()),
        ("__streams.errors.partition", str(record.partition).encode()),
        ("__streams.errors.offset", str(record.offset).encode()),
        ("__streams.errors.exception", b"streamer.events.verdicts.Rejected"),
        ("__streams.errors.message", message.encode("utf-8", "replace")),
        ("__streams.errors.stacktrace", b""),
        ("factors.reason", str(reason).encode()),
        ("factors.errors", json.dumps(listed).encode()),
    ]
    # A tombstone has no value, and a record needs a key or a value: an empty key stands for none of both.
    key = b"" if record.key is None and record.value is None else record.key
    return key, record.value, record.timestamp, headers


def _json_text(key: bytes) -> bytes:
    return orjson.dumps(key.decode())
