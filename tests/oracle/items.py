"""Fold each item's signals into the item's row, one at a time, and hold the item side against it.

e = 1 - x.y ;  u = rate * c * (e * x) - rate * reg * y ;  y = float32(y + u * min(1, clip / |u|))
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.oracle.hashes import generation_id
from tests.oracle.logs import LogRecord, Logs
from tests.oracle.report import Report
from tests.oracle.rules import Rules

_ROW = struct.Struct("<BBHHHHHIQQQqqII")
_SIGNAL = struct.Struct("<BBHfqQQ")
_FORMAT, _ITEM = 1, 2
_RESERVOIR = 32
_TOLERANCE = 1e-6

Vector = npt.NDArray[np.float32]


@dataclass(slots=True)
class Item:
    """One item: as the bootstrap job left it, then as its signals make it."""

    vector: Vector
    version: int = 0
    known: bool = False
    events: int = 0
    event_time: int = 0
    source_next: int = 0
    reservoir: dict[int, tuple[float, bytes]] = field(default_factory=dict)

    def take(self, record: LogRecord, rules: Rules) -> None:
        """One signal."""
        value = record.value or b""
        _, _, _, confidence, at, user, _ = _SIGNAL.unpack_from(value)
        self.events += 1
        self.event_time = max(self.event_time, at)
        self.source_next = record.offset + 1
        raw = value[_SIGNAL.size :]
        if not self.known:
            self.reservoir.pop(user, None)
            self.reservoir[user] = (confidence, raw)
            if len(self.reservoir) > _RESERVOIR:
                del self.reservoir[next(iter(self.reservoir))]
            return
        self.vector = _moved(self.vector, np.frombuffer(raw, "<f4"), confidence, rules)

    def entries(self) -> bytes:
        """The bytes of the reservoir."""
        return b"".join(struct.pack("<Qf", user, c) + raw for user, (c, raw) in self.reservoir.items())

    def encoded(self, rules: Rules) -> bytes:
        """The bytes of the row."""
        head = _ROW.pack(
            _FORMAT,
            _ITEM,
            rules.dimension,
            len(self.reservoir),
            0,
            0,
            int(not self.known),
            0,
            generation_id(rules.model_version),
            self.version,
            self.events,
            self.event_time,
            self.source_next,
            0,
            0,
        )
        return head + self.vector.tobytes() + struct.pack("<f", 0.0) + self.entries()


def _moved(vector: Vector, user: Vector, confidence: float, rules: Rules) -> Vector:
    y, x = vector.astype(np.float64), user.astype(np.float64)
    error = 1.0 - np.add.reduce(x * y)
    update = rules.sgd_rate * confidence * (error * x) - rules.sgd_rate * rules.sgd_reg * y
    norm = float(np.sqrt(np.add.reduce(update * update)))
    if norm > rules.sgd_clip:
        update *= rules.sgd_clip / norm
    moved: Vector = (y + update).astype(np.float32)
    return moved


def check_items(logs: Logs, committed: dict[int, int], rules: Rules, report: Report) -> None:
    """Every partition of the item side; ``committed``: its group's offsets."""
    for number in sorted(logs.item_state):
        records = logs.item_state[number]
        marker = _marker(records)
        offset = committed.get(number)
        if marker != offset:
            report.found(f"items: partition {number} committed {offset}, its changelog says {marker}")
        if offset is not None or records:
            _check_partition(number, offset or 0, logs, rules, report)


def _marker(records: list[LogRecord]) -> int | None:
    values = [record.value for record in records if record.key == b"" and record.value]
    return int.from_bytes(values[-1], "little") if values else None


def _check_partition(number: int, end: int, logs: Logs, rules: Rules, report: Report) -> None:
    published: dict[bytes, list[LogRecord]] = {}
    for record in logs.items.get(number, []):
        published.setdefault(record.key or b"", []).append(record)
    revisions: dict[bytes, list[bytes]] = {}
    for record in logs.item_state[number]:
        if record.key:
            revisions.setdefault(record.key, []).append(record.value or b"")
    signals: dict[bytes, list[LogRecord]] = {}
    for record in logs.signals.get(number, []):
        # What is no signal is said by `check_signals`, and no worker takes it.
        good = len(record.value or b"") == _SIGNAL.size + 4 * rules.dimension
        if good and record.offset < end:
            signals.setdefault(record.key or b"", []).append(record)
    for key in sorted(signals.keys() | revisions.keys()):
        name = f"item {key.decode(errors='replace')!r}"
        _check_item(name, signals.get(key, []), revisions.get(key, []), published.get(key, []), rules, report)


def _check_item(
    name: str,
    signals: list[LogRecord],
    revisions: list[bytes],
    published: list[LogRecord],
    rules: Rules,
    report: Report,
) -> None:
    item = Item(np.zeros(rules.dimension, np.float32))
    if published and "factors.source" not in dict(published[0].headers):
        start = json.loads(published[0].value or b"")
        item = Item(np.array(start["vector"], np.float32), start["version"], known=True)
        published = published[1:]
    rows = {_ROW.unpack_from(data)[12]: data for data in revisions}
    if len(rows) != len(revisions):
        report.found(f"items: {name} has {len(revisions)} revisions of {len(rows)} places in its input")
    vectors: list[tuple[int, int, int, bytes]] = []
    for record in signals:
        item.take(record, rules)
        data = rows.pop(item.source_next, None)
        if data is not None:
            item.version += item.known
            report.item_revisions += 1
            item.vector = _compare(name, item, data, rules, report)
            vectors.append((item.version, item.events, item.event_time, item.vector.tobytes()))
    if rows or (signals and (not revisions or _ROW.unpack_from(revisions[-1])[12] != item.source_next)):
        report.found(f"items: {name} does not account for its {len(signals)} signals")
    said = [_said(json.loads(record.value or b"")) for record in published]
    if said != (vectors if item.known else []):
        report.found(f"items: {name} was published otherwise than its {len(vectors)} revisions have it")


def _said(body: dict[str, Any]) -> tuple[int, int, int, bytes]:
    vector = np.array(body["vector"], np.float32)
    return body["version"], body["events"], body["event_time"], vector.tobytes()


def _compare(name: str, item: Item, data: bytes, rules: Rules, report: Report) -> Vector:
    """The row's own vector, from which the next step starts; what differs from the fold is a violation."""
    k = rules.dimension
    form, kind, dimension, entries, _, _, unknown, _, generation, version, events, at, _, _, _ = _ROW.unpack_from(data)
    got = {"generation": generation, "version": version, "events": events, "event_time": at, "unknown": unknown}
    want = {
        "generation": generation_id(rules.model_version),
        "version": item.version,
        "events": item.events,
        "event_time": item.event_time,
        "unknown": int(not item.known),
    }
    fixed = _ROW.size + 4 * k + 4
    size = fixed + entries * (12 + 4 * k)
    if (form, kind, dimension) != (_FORMAT, _ITEM, k) or len(data) != size:
        report.found(f"items: a row of {name} is no item row of {size} bytes")
        return item.vector
    vector = np.frombuffer(data[_ROW.size : _ROW.size + 4 * k], "<f4").copy()
    differing = [f"{one} {got[one]} instead of {want[one]}" for one in got if got[one] != want[one]]
    if data[fixed:] != item.entries():
        differing.append("reservoir")
    if not np.linalg.norm(vector - item.vector) <= _TOLERANCE * max(float(np.linalg.norm(item.vector)), 1e-30):
        differing.append("vector")
    if differing:
        report.found(f"items: {name} version {version} differs: {', '.join(differing)}")
    return vector
