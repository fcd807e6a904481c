"""The records that a step publishes: factor records and dead letters.

value   JSON, or with encoding f32le the raw vector and the rest in the header `factors.record`
headers CloudEvents 1.0 binary mode, `factors.source` (topic/partition/offset), `traceparent` where the event had one
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from schemas.outcomes import Outcome, Reason
from streamer.events.verdicts import FieldError
from streamer.factors.serving import Served
from streamer.steps.effects import Headers, Outgoing
from streamer.steps.wire import header_bytes, name_bytes

Kind = Literal["user", "item"]
HISTORY, AVERAGE = b',"suppressed":[],"basis":"history"', b',"suppressed":[],"basis":"average"'
"""What a user's record says last: what its vector stems from."""

_EXPLAINED = 10
_LETTER_BYTES = 800_000
"""What a dead letter holds of a value at most: with its headers it must fit into a broker's default of 1 MB, or one
hostile record (a few kilobytes, compressed) would stop its partition for good."""
_LETTER_HEADERS_BYTES = 64_000
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

        vectors: (n, k), or (n, k + 1) where a bias stands behind each, which becomes a field of its own;
        extras: JSON fields to append, each starting with a comma, or empty;
        offsets: ``topic/partition/offset`` of the newest event in it; trace: position -> traceparent.
        """
        raw = self.encoding == "f32le"
        if vectors.shape[1] > self.dimension:
            biases = _texts(vectors[:, self.dimension :])
            extras = [b'%b,"bias":%b' % both for both in zip(extras, biases, strict=True)]
            vectors = vectors[:, : self.dimension]
        fixed = self._fixed()
        text = self._template(epochs, raw)
        out: list[Outgoing] = []
        rows = zip(
            keys,
            _json_texts(keys),
            self._raw(vectors) if raw else _texts(vectors),
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

    def parts(self, epochs: Sequence[int], place: bytes) -> list[bytes]:
        """What never changes within a batch, in pieces, for `streamer.steps.kernel.publish` (its ``T_`` numbers).

        JSON before id, vector, version, events, event time, extras; then fixed headers and the names of ``ce_id``,
        ``factors.source`` and ``factors.record`` as they are on the wire; last ``place``.
        """
        raw = self.encoding == "f32le"
        return [
            *self._json(epochs, raw),
            b"".join(header_bytes(name, content) for name, content in self._fixed()),
            name_bytes("ce_id"),
            name_bytes("factors.source"),
            name_bytes("factors.record"),
            place,
        ]

    def _fixed(self) -> Headers:
        raw = self.encoding == "f32le"
        return [
            ("ce_specversion", b"1.0"),
            ("ce_type", b"factors.%b.refreshed.v1" % self.kind.encode()),
            ("ce_source", self.source.encode()),
            ("content-type", b"application/octet-stream" if raw else b"application/json"),
        ]

    def _json(self, epochs: Sequence[int], raw: bool) -> list[bytes]:
        """A record's JSON in pieces: before id, vector (its numbers; none if ``raw``), version, events, time, rest."""
        kind = b',"kind":"%b"' % self.kind.encode()
        head = b',"dimension":%d,"model_version":%b,"version":' % (self.dimension, orjson.dumps(self.model_version))
        return [
            b'{"id":',
            kind if raw else kind + b',"vector":[',
            head if raw else b"]" + head,
            b',"events":',
            b',"event_time":',
            b',"items_epoch":%b,"training_data_end":%d' % (orjson.dumps(list(epochs)), self.training_data_end),
        ]

    def _template(self, epochs: Sequence[int], raw: bool) -> bytes:
        """`_json` as one text to fill in."""
        first, kind, *rest, last = (part.replace(b"%", b"%%") for part in self._json(epochs, raw))
        vector = b"" if raw else b"%b"
        return first + b"%b" + kind + vector + b"%d".join(rest) + b"%d" + last + b"%b}"

    @staticmethod
    def _raw(vectors: npt.NDArray[np.float32]) -> list[bytes]:
        data, size = vectors.astype("<f4").tobytes(), 4 * vectors.shape[1]
        return [data[at : at + size] for at in range(0, len(data), size)]


FOUND_WITH_THE_ROW: Mapping[Reason | Outcome, FieldError] = {
    Outcome.CONFLICT: FieldError(
        "$.request_id", "this user sent it before with another payload: every act needs a request_id of its own"
    ),
    Reason.WRONG_PARTITION: FieldError(
        "key", "its partition by murmur2 is another one: produce with Kafka's default partitioner (murmur2)"
    ),
}
"""What is wrong with a record that the reader lets through, and the user's row does not."""


def dead_letter(record: Any, topic: str, reason: Reason | str, errors: Sequence[FieldError]) -> Outgoing:
    """The record as it came, with the reason; KIP-1034's headers, the message free of payload beyond short excerpts.

    A value of more than 800,000 bytes is cut there, and ``factors.bytes`` says how many it had; so are headers of more
    than 64,000 bytes in all: those that no longer fit are left out.
    """
    listed = [{"path": error.path, "message": error.message} for error in errors]
    message = "; ".join(str(error) for error in errors[:_EXPLAINED]) or str(reason)
    headers: Headers = [
        *_fitting(record.headers),
        ("__streams.errors.topic", topic.encode()),
        ("__streams.errors.partition", str(record.partition).encode()),
        ("__streams.errors.offset", str(record.offset).encode()),
        ("__streams.errors.exception", b"streamer.events.verdicts.Rejected"),
        ("__streams.errors.message", message.encode("utf-8", "replace")),
        ("__streams.errors.stacktrace", b""),
        ("factors.reason", str(reason).encode()),
        ("factors.errors", json.dumps(listed).encode()),
    ]
    value = record.value
    if value is not None and len(value) > _LETTER_BYTES:
        headers.append(("factors.bytes", str(len(value)).encode()))
        value = value[:_LETTER_BYTES]
    # A tombstone has no value, and a record needs a key or a value: an empty key stands for none of both.
    key = b"" if record.key is None and value is None else record.key
    return key and key[:_LETTER_HEADERS_BYTES], value, record.timestamp, headers


def _fitting(headers: Sequence[tuple[str, bytes | None]]) -> Headers:
    """The headers as they came, as many as fit."""
    kept, left = Headers(), _LETTER_HEADERS_BYTES
    for name, content in headers:
        size = len(name.encode()) + len(content or b"")
        if size <= left:
            left -= size
            kept.append((name, content or b""))
    return kept


def served_fields(served: Served) -> list[bytes]:
    """What each user's record says last where more than the long-term vector goes into the published one."""
    made = [orjson.dumps(served.made_of(at)) for at in range(len(served.basis))]
    fields = [b',"suppressed":[],' + text[1:-1] for text in made]
    if served.has_session.any():
        for at, text in enumerate(_texts(served.session)):
            if served.has_session[at]:
                fields[at] += b',"session":[%b]' % text
    return fields


def _texts(vectors: npt.NDArray[np.float32]) -> list[bytes]:
    """Each row's exact float32 values as in a JSON array: many rows a call, cut at the seams."""
    texts: list[bytes] = []
    for start in range(0, len(vectors), _ROWS):
        rows = np.ascontiguousarray(vectors[start : start + _ROWS])
        texts += orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
    return texts


def _json_texts(keys: Sequence[bytes]) -> list[bytes]:
    """Each key as a JSON string."""
    whole = orjson.dumps([key.decode() for key in keys])
    if b"\\" in whole:
        return [orjson.dumps(key.decode()) for key in keys]
    # Without a backslash no key holds a quote, so these three bytes are the seams.
    return [b'"%b"' % key for key in whole[2:-2].split(b'","')] if keys else []
