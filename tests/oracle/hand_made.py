"""A system made by hand: what a right worker leaves behind, and what a wrong one does.

The worker here is a few lines over the oracle's own fold, so that a test can bend one thing at a time.
"""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.chaos.events import Events
from tests.oracle.fold import apply_event, voided
from tests.oracle.hashes import generation_id, partition_of
from tests.oracle.items import Item
from tests.oracle.judge import judge
from tests.oracle.logs import Log, LogRecord, Logs, StoreRows
from tests.oracle.rowbytes import UserRow, encode
from tests.oracle.rules import Rules
from tests.oracle.solve import ItemViews, solve

NOW = 1_700_000_000_000
PARTITIONS = 2
_DIMENSION = 4

MANIFEST = json.dumps(
    {
        "model_version": "hand-made",
        "dimension": _DIMENSION,
        "item_key": "00112233445566778899aabbccddeeff",
        "average_user": [0.5, -0.25, 0.125, 1.0],
        "cut_offsets": {},
        "policy": {"history_capacity": 12, "keys_capacity": 20, "suppress_capacity": 3},
    }
).encode()

RULES = Rules.of_manifest(MANIFEST, partitions=PARTITIONS)
ITEMS = [f"item-{number}" for number in range(30)]

Tamper = Callable[[list[LogRecord]], list[LogRecord]]


def item_log(seed: int = 0) -> Log:
    """One vector an item, in one partition."""
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(len(ITEMS), _DIMENSION)).astype(np.float32)
    return {
        0: [
            LogRecord(0, offset, item_id.encode(), json.dumps({"vector": vector.tolist(), "version": 1}).encode())
            for offset, (item_id, vector) in enumerate(zip(ITEMS, vectors, strict=True))
        ]
    }


def interactions(seed: int, count: int) -> Log:
    """The generator's stream as the broker would have it; offsets have the holes that a log may have."""
    draw = random.Random(seed)
    clock = iter(range(NOW, NOW + 10 * count * 1000, 7))
    log: Log = {number: [] for number in range(PARTITIONS)}
    for sent in Events(seed, users=15, items=ITEMS, clock=lambda: next(clock)).take(count):
        home = 0 if sent.key is None else partition_of(sent.key, PARTITIONS)
        number = (home + 1) % PARTITIONS if sent.astray else home
        offset = log[number][-1].offset + draw.choice((1, 1, 1, 2)) if log[number] else 0
        headers = tuple(sent.headers)
        log[number].append(LogRecord(number, offset, sent.key, sent.value, next(clock), headers))
    return log


class HandMade:
    """The worker. ``process`` a log partition by partition; then ``logs`` is the system at rest."""

    def __init__(self, log: Log, items: Log | None = None, solved_with: Log | None = None) -> None:
        self.items = item_log() if items is None else items
        self._views = ItemViews(self.items if solved_with is None else solved_with, RULES)
        self._rows: dict[tuple[int, bytes], UserRow] = {}
        self.counters: Counter[tuple[str, str]] = Counter()
        self.log = log
        self.state: Log = {number: [] for number in log}
        self.factors: Log = {number: [] for number in log}
        self.letters: Log = {number: [] for number in log}
        self.signals: Log = {0: []}
        self.item_state: Log = {0: []}
        self.items_committed: dict[int, int] = {}
        self.committed: dict[int, int] = {}

    def process(self, seed: int = 0, tamper: Tamper = lambda records: records) -> HandMade:
        """Read every partition in batches; ``tamper`` changes what the worker sees of the log."""
        draw = random.Random(seed)
        for number, records in self.log.items():
            seen = tamper(records)
            while seen:
                size = draw.randrange(1, 12)
                batch, seen = seen[:size], seen[size:]
                self.commit(number, batch, batch[-1].offset + 1)
        return self

    def commit(self, number: int, batch: list[LogRecord], end: int) -> None:
        """One transaction."""
        touched: dict[bytes, UserRow] = {}
        for record in batch:
            self._one(number, record, touched)
        for key, row in touched.items():
            row.version += 1
            row.epochs = [len(ITEMS)]
            row.vector = solve(row, self._views.at(row.epochs), RULES)
            self._append(self.state, number, key, encode(row, RULES.history_capacity, RULES.keys_capacity))
            self._append(self.factors, number, key, json.dumps(_body(key, row)).encode())
        self._append(self.state, number, b"", end.to_bytes(8, "little"))
        self.committed[number] = end

    def _one(self, number: int, record: LogRecord, touched: dict[bytes, UserRow]) -> None:
        judged = judge(record, RULES)
        key = record.key or b""
        row = self._rows.get((number, key)) or UserRow(np.zeros(_DIMENSION, np.float32), [])
        if judged.refused:
            outcome = "dead_letter", judged.refused
        elif (number, key) not in self._rows and partition_of(key, PARTITIONS) != number:
            outcome = "dead_letter", "wrong_partition"
        elif judged.withheld:
            outcome = ("dead_letter" if judged.withheld == "future" else "filtered"), judged.withheld
        else:
            assert judged.event is not None
            outcome = apply_event(row, judged.event, record.offset, record.timestamp, RULES)
        self.counters[outcome] += 1
        if outcome[0] == "applied" and judged.event is not None and not voided(row, judged.event, RULES):
            self._signal(judged.event)
        if outcome[0] in ("applied", "suppressed"):
            row.generation = generation_id(RULES.model_version)
            self._rows[number, key] = touched[key] = row
        elif outcome[0] in ("dead_letter", "conflict"):
            headers = (*record.headers, *_letter_headers(record, outcome[1] or outcome[0]))
            self._append(self.letters, number, record.key, record.value, headers)

    def _signal(self, event: dict[str, Any]) -> None:
        user = zlib.crc32(event["user_id"].encode())
        head = struct.pack("<BBHfqQQ", 1, 3, _DIMENSION, 1.5, event["timestamp"], user % 3, 0)
        vector = np.full(_DIMENSION, 0.1 * (user % 7), np.float32)
        self._append(self.signals, 0, event["item_id"].encode(), head + vector.tobytes())

    @staticmethod
    def _append(
        log: Log,
        number: int,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes | None], ...] = (),
    ) -> None:
        offset = log[number][-1].offset + 1 if log[number] else 0
        log[number].append(LogRecord(number, offset, key, value, NOW, headers))

    def move_items(self) -> HandMade:
        """The item worker: every signal moves its item, in batches of five."""
        items: dict[bytes, Item] = {}
        for record in self.items[0]:
            vector = np.array(json.loads(record.value or b"")["vector"], np.float32)
            items[record.key or b""] = Item(vector, 1, known=True)
        self.items = {0: list(self.items[0])}
        signals = self.signals[0]
        for start in range(0, len(signals), 5):
            touched: dict[bytes, Item] = {}
            for record in signals[start : start + 5]:
                key = record.key or b""
                item = items.setdefault(key, Item(np.zeros(_DIMENSION, np.float32)))
                item.take(record, RULES)
                touched[key] = item
            for key, item in touched.items():
                item.version += item.known
                self._append(self.item_state, 0, key, item.encoded(RULES))
                if item.known:
                    source = (("factors.source", b"item-signals/0/1"),)
                    self._append(self.items, 0, key, json.dumps(_item_body(item)).encode(), source)
            end = min(start + 5, len(signals))
            self._append(self.item_state, 0, b"", end.to_bytes(8, "little"))
            self.items_committed[0] = end
        return self

    @property
    def logs(self) -> Logs:
        """The system at rest, its stores as they should be."""
        return Logs(
            manifest=MANIFEST,
            interactions=self.log,
            committed=dict(self.committed),
            user_state=self.state,
            user_factors=self.factors,
            dead_letters=self.letters,
            items=self.items,
            signals=self.signals,
            item_state=self.item_state,
            items_committed=dict(self.items_committed),
            ends={"interactions": {number: records[-1].offset + 1 for number, records in self.log.items()}},
            stores={
                number: [
                    StoreRows(
                        "state",
                        {record.key: record.value for record in records if record.key and record.value},
                        records[-1].offset + 1 if records else 0,
                    )
                ]
                for number, records in self.state.items()
            },
            counters=dict(self.counters),
            acked={(record.partition, record.offset) for records in self.log.values() for record in records},
        )


def _body(key: bytes, row: UserRow) -> dict[str, Any]:
    return {
        "id": key.decode(),
        "kind": "user",
        "vector": row.vector.tolist(),
        "dimension": _DIMENSION,
        "model_version": RULES.model_version,
        "version": row.version,
        "events": row.events,
        "event_time": row.event_time,
        "items_epoch": row.epochs,
        "suppressed": [one.item_id for one in row.suppressed or [] if one.until >= one.positive],
    }


def _item_body(item: Item) -> dict[str, Any]:
    return {
        "vector": item.vector.tolist(),
        "version": item.version,
        "events": item.events,
        "event_time": item.event_time,
    }


def _letter_headers(record: LogRecord, reason: str) -> tuple[tuple[str, bytes | None], ...]:
    return (
        ("__streams.errors.topic", b"interactions"),
        ("__streams.errors.partition", str(record.partition).encode()),
        ("__streams.errors.offset", str(record.offset).encode()),
        ("__streams.errors.exception", b"Rejected"),
        ("__streams.errors.message", b""),
        ("__streams.errors.stacktrace", b""),
        ("factors.reason", reason.encode()),
        ("factors.errors", b"[]"),
    )
