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
_ROWS = 64  # vectors a call of the JSON encoder: what it writes stays in the first caches


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
        fixed: Headers = [
            ("ce_specversion", b"1.0"),
            ("ce_type", b"factors.%b.refreshed.v1" % self.kind.encode()),
            ("ce_source", self.source.encode()),
            ("content-type", b"application/octet-stream" if raw else b"application/json"),
        ]
        text = self._template(epochs, raw)
        out: list[Outgoing] = []
        rows = zip(
            keys,
            _json_texts(keys),
            self._raw(vectors) if raw else self._texts(vectors),
            versions,
            events,
            event_times,
            extras,
            offsets,
            strict=True,
        )
        for key, name, vector, version, count, at, extra, offset in rows:
            headers = [*fixed, ("ce_id", b"%b/%d" % (key, version)), ("factors.source", offset)]
            if raw:
                value = vector
                headers.append(("factors.record", text % (name, version, count, at, extra)))
            else:
                value = text % (name, vector, version, count, at, extra)
            out.append((key, value, None, headers))
        for position, parent in trace.items():
            out[position][3].append(("traceparent", parent))
        return out

    def _template(self, epochs: Sequence[int], raw: bool) -> bytes:
        """A record's JSON with places for id, vector (its numbers; none if ``raw``), version, events, time, extras."""
        vector = b"" if raw else b',"vector":[%b]'
        model = orjson.dumps(self.model_version).replace(b"%", b"%%")
        return (
            b'{"id":%b,"kind":"'
            + self.kind.encode()
            + b'"'
            + vector
            + b',"dimension":%d,"model_version":' % self.dimension
            + model
            + b',"version":%d,"events":%d,"event_time":%d,"items_epoch":'
            + orjson.dumps(list(epochs))
            + b',"training_data_end":%d' % self.training_data_end
            + b"%b}"
        )

    @staticmethod
    def _texts(vectors: npt.NDArray[np.float32]) -> list[bytes]:
        """Each row's exact float32 values as in a JSON array: many rows a call, cut at the seams."""
        texts: list[bytes] = []
        for start in range(0, len(vectors), _ROWS):
            rows = np.ascontiguousarray(vectors[start : start + _ROWS])
            texts += orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
        return texts

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


def _json_texts(keys: Sequence[bytes]) -> list[bytes]:
    """Each key as a JSON string."""
    whole = orjson.dumps([key.decode() for key in keys])
    if b"\\" in whole:
        return [orjson.dumps(key.decode()) for key in keys]
    # Without a backslash no key holds a quote, so these three bytes are the seams.
    return [b'"%b"' % key for key in whole[2:-2].split(b'","')] if keys else []
