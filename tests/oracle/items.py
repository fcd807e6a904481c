"""Fold each item's signals into the item's row, one at a time, and hold the item side against it.

pointwise  e = 1 - x.y                       of a pair  e = s / (1 + exp(s (x.y - t)))
u = rate * g * (e * x) - rate * reg * y - rate * pull * (y - origin), no longer than clip;  adagrad: u / sqrt(1 + h)
g = c, times budget / n for the n-th signal of a day beyond the budget, times popularity ^ -balance above the mean
popularity: the trained one, and for each event since a share of the mean events of a trained item

An item outside the generation is solved from its users, once there are enough of them and the cap leaves room.
"""

from __future__ import annotations

import json
import math
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
_FORMAT, _ITEM, _FOLDED = 1, 2, 4
_FOLDED_KEY = b"\xff"
_RESERVOIR = 32
_DAY_MS = 24 * 60 * 60 * 1000
_TOLERANCE = 1e-6

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal, read; pointwise ones are as of an item that was chosen."""

    confidence: float
    at: int
    user: int
    generation: int
    raw: bytes
    other: float = 0.0
    sign: float = 1.0

    @property
    def vector(self) -> npt.NDArray[np.float64]:
        """The user's vector."""
        return np.frombuffer(self.raw, "<f4").astype(np.float64)


def read_signal(value: bytes, rules: Rules) -> Signal | None:
    """The signal in these bytes; None where they are none of the objective's form and the model's dimension."""
    form = struct.Struct("<BBHfqQQff" if rules.sgd_objective == "bpr" else "<BBHfqQQ")
    if len(value) != form.size + 4 * rules.dimension:
        return None
    number, kind, dimension, confidence, at, user, generation, *pair = form.unpack_from(value)
    if (number, kind, dimension) != (2 if rules.sgd_objective == "bpr" else 1, 3, rules.dimension):
        return None
    other, sign = pair or (0.0, 1.0)
    return Signal(confidence, at, user, generation, value[form.size :], other, sign)


@dataclass(slots=True)
class Item:
    """One item: as the bootstrap job left it, then as its signals make it.

    enters: the offset of the signal that it is folded in by, if ever; origin: what it is pulled to.
    """

    vector: Vector
    version: int = 0
    known: bool = False
    events: int = 0
    event_time: int = 0
    source_next: int = 0
    reservoir: dict[int, tuple[float, bytes]] = field(default_factory=dict)
    enters: int | None = None
    folded: bool = False
    spent: float = 0.0
    day: int = 0
    count: int = 0
    origin: Vector | None = None
    popularity: float = 1.0

    def root(self, rules: Rules, popularity: float) -> None:
        """Remember where it stands, where the policy asks for it."""
        if rules.sgd_pull or rules.sgd_balance:
            self.origin, self.popularity = self.vector.copy(), popularity

    def take(self, record: LogRecord, rules: Rules) -> None:
        """One signal."""
        signal = read_signal(record.value or b"", rules)
        assert signal is not None
        self.source_next = record.offset + 1
        if signal.sign > 0:
            self.events += 1
            self.event_time = max(self.event_time, signal.at)
        if self.known and not self.reservoir:
            if rules.sgd_balance and signal.sign > 0:
                self.popularity = float(np.float32(self.popularity + rules.event_share))
            self._move(signal, rules)
        elif signal.sign > 0:
            self.reservoir.pop(signal.user, None)
            self.reservoir[signal.user] = (signal.confidence, signal.raw)
            if len(self.reservoir) > _RESERVOIR:
                del self.reservoir[next(iter(self.reservoir))]
            if record.offset == self.enters:
                self.known = self.folded = True
            if self.known:
                self.vector = _solved(self.reservoir, rules)
                if len(self.reservoir) == _RESERVOIR:
                    self.reservoir = {}
                    self.root(rules, float(np.float32(self.events * rules.event_share)))

    def _move(self, signal: Signal, rules: Rules) -> None:
        gain = signal.confidence
        if rules.sgd_budget:
            if signal.at // _DAY_MS > self.day:
                self.day, self.count = signal.at // _DAY_MS, 0
            self.count += 1
            gain *= min(1.0, rules.sgd_budget / self.count)
        if rules.sgd_balance and self.popularity > 1:
            gain *= self.popularity**-rules.sgd_balance
        y, x = self.vector.astype(np.float64), signal.vector
        score = float(np.add.reduce(x * y))
        error = 1.0 - score
        if rules.sgd_objective == "bpr":
            error = signal.sign / (1.0 + math.exp(min(signal.sign * (score - signal.other), 700.0)))
        update = rules.sgd_rate * gain * (error * x) - rules.sgd_rate * rules.sgd_reg * y
        if rules.sgd_pull and self.origin is not None:
            update = update - rules.sgd_rate * rules.sgd_pull * (y - self.origin.astype(np.float64))
        norm = float(np.sqrt(np.add.reduce(update * update)))
        if norm > rules.sgd_clip:
            update = update * (rules.sgd_clip / norm)
            norm = rules.sgd_clip
        if rules.sgd_step == "adagrad":
            self.spent = float(np.float32(self.spent + (norm / rules.sgd_rate) ** 2))
            update = update / math.sqrt(1.0 + self.spent)
        self.vector = _capped(y + update, rules)

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
            int(self.origin is not None),
            0,
            self.state,
            0,
            generation_id(rules.model_version),
            self.version,
            self.events,
            self.event_time,
            self.source_next,
            self.day,
            self.count,
        )
        origin = b"" if self.origin is None else struct.pack("<f", self.popularity) + self.origin.tobytes()
        return head + self.vector.tobytes() + struct.pack("<f", self.spent) + origin + self.entries()

    @property
    def state(self) -> int:
        """0 of the generation, 1 without a vector, 2 folded in."""
        return 2 if self.folded else int(not self.known)


def _solved(reservoir: dict[int, tuple[float, bytes]], rules: Rules) -> Vector:
    """(X'X + ridge I + sum (c-1) x x') y = sum q x over the reservoir."""
    assert rules.user_gramian is not None
    growth = (len(reservoir) + rules.ridge_alpha0 * rules.trained_users) ** rules.ridge_nu
    system = (rules.ridge_items or rules.ridge) * growth * np.eye(rules.dimension)
    above = iter(rules.user_gramian)
    for row in range(rules.dimension):
        for column in range(row, rules.dimension):
            value = next(above)
            system[row, column] += value
            if row != column:
                system[column, row] += value
    right = np.zeros(rules.dimension)
    for c, raw in reservoir.values():
        x = np.frombuffer(raw, "<f4").astype(np.float64)
        system += (c - 1.0) * np.outer(x, x)
        right += (c if rules.rhs == "c" else c - 1.0) * x
    return _capped(np.linalg.solve(system, right), rules)


def _capped(vector: npt.NDArray[np.floating[Any]], rules: Rules) -> Vector:
    norm = float(np.linalg.norm(vector))
    return (vector * min(1.0, rules.norm_cap / max(norm, 1e-300))).astype(np.float32)


def entries_of(records: list[LogRecord], known: set[bytes], rules: Rules) -> dict[bytes, int]:
    """The offset of the signal by which each new item of a partition is folded in, in the order of the log."""
    room = -(-rules.new_items_cap // rules.item_partitions)
    entered: dict[bytes, int] = {}
    users: dict[bytes, dict[int, None]] = {}
    for record in records:
        key, signal = record.key or b"", read_signal(record.value or b"", rules)
        if signal is None or rules.user_gramian is None or key in known or key in entered or signal.sign < 0:
            continue
        mine = users.setdefault(key, {})
        mine.pop(signal.user, None)
        mine[signal.user] = None
        if len(mine) > _RESERVOIR:
            del mine[next(iter(mine))]
        if len(mine) >= rules.new_item_users and len(entered) < room:
            entered[key] = record.offset
    return entered


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
    # What is no signal is said by `check_signals`, and no worker takes it.
    taken = [one for one in logs.signals.get(number, []) if one.offset < end and read_signal(one.value or b"", rules)]
    for record in taken:
        signals.setdefault(record.key or b"", []).append(record)
    theirs = {key for key, records in published.items() if _is_the_generations(records[0])}
    entered = entries_of(taken, theirs, rules)
    counts = [_ROW.unpack_from(data) for data in revisions.pop(_FOLDED_KEY, [])]
    if [count[:2] for count in counts] != [(_FORMAT, _FOLDED)] * len(counts):
        report.found(f"items: partition {number} counts its new items in rows of another form")
    report.new_items += len(entered)
    if (counts[-1][10] if counts else 0) != len(entered):
        report.found(f"items: partition {number} counts other new items than the {len(entered)} that came in")
    for key in sorted(signals.keys() | revisions.keys()):
        name = f"item {key.decode(errors='replace')!r}"
        item = Item(np.zeros(rules.dimension, np.float32), enters=entered.get(key))
        _check_item(name, item, signals.get(key, []), revisions.get(key, []), published.get(key, []), rules, report)


def _is_the_generations(record: LogRecord) -> bool:
    return "factors.source" not in dict(record.headers)


def _check_item(
    name: str,
    item: Item,
    signals: list[LogRecord],
    revisions: list[bytes],
    published: list[LogRecord],
    rules: Rules,
    report: Report,
) -> None:
    if published and _is_the_generations(published[0]):
        start = json.loads(published[0].value or b"")
        item = Item(np.array(start["vector"], np.float32), start["version"], known=True)
        item.root(rules, start.get("popularity", 1.0))
        published = published[1:]
    rows = {_ROW.unpack_from(data)[12]: data for data in revisions}
    if len(rows) != len(revisions):
        report.found(f"items: {name} has {len(revisions)} revisions of {len(rows)} places in its input")
    vectors: list[tuple[int, int, int, bytes, str | None]] = []
    for record in signals:
        item.take(record, rules)
        data = rows.pop(item.source_next, None)
        if data is not None:
            item.version += item.known
            report.item_revisions += 1
            item.vector = _compare(name, item, data, rules, report)
            basis = "history" if item.folded else None
            vectors += [(item.version, item.events, item.event_time, item.vector.tobytes(), basis)] * item.known
    if rows or (signals and (not revisions or _ROW.unpack_from(revisions[-1])[12] != item.source_next)):
        report.found(f"items: {name} does not account for its {len(signals)} signals")
    said = [_said(json.loads(record.value or b"")) for record in published]
    if said != vectors:
        report.found(f"items: {name} was published otherwise than its {len(vectors)} revisions have it")


def _said(body: dict[str, Any]) -> tuple[int, int, int, bytes, str | None]:
    vector = np.array(body["vector"], np.float32)
    return body["version"], body["events"], body["event_time"], vector.tobytes(), body.get("basis")


def _compare(name: str, item: Item, data: bytes, rules: Rules, report: Report) -> Vector:
    """The row's own vector, from which the next step starts; what differs from the fold is a violation."""
    k = rules.dimension
    form, kind, dimension, entries, origins, _, state, _, generation, version, events, at, _, day, count = (
        _ROW.unpack_from(data)
    )
    got = (generation, version, events, at, state, origins, day, count)
    want = (
        generation_id(rules.model_version),
        item.version,
        item.events,
        item.event_time,
        item.state,
        int(item.origin is not None),
        item.day,
        item.count,
    )
    fixed = _ROW.size + 4 * k + 4
    rest = fixed + origins * (4 + 4 * k)
    if (form, kind, dimension) != (_FORMAT, _ITEM, k) or len(data) != rest + entries * (12 + 4 * k):
        report.found(f"items: a row of {name} is no item row")
        return item.vector
    vector = np.frombuffer(data[_ROW.size : _ROW.size + 4 * k], "<f4").copy()
    names = ("generation", "version", "events", "event_time", "state", "origins", "day", "count")
    differing = [f"{one} {a} instead of {b}" for one, a, b in zip(names, got, want, strict=True) if a != b]
    if data[rest:] != item.entries():
        differing.append("reservoir")
    (spent,) = struct.unpack_from("<f", data, fixed - 4)
    if not math.isclose(spent, item.spent, rel_tol=1e-5, abs_tol=1e-12):
        differing.append(f"optimiser {spent} instead of {item.spent}")
    if item.origin is not None and origins:
        origin = np.frombuffer(data[fixed + 4 : rest], "<f4")
        if struct.unpack_from("<f", data, fixed) != (np.float32(item.popularity),) or not _near(origin, item.origin):
            differing.append("origin")
    if not _near(vector, item.vector):
        differing.append("vector")
    if differing:
        report.found(f"items: {name} version {version} differs: {', '.join(differing)}")
    item.spent = spent
    return vector


def _near(got: Vector, want: Vector) -> bool:
    return bool(np.linalg.norm(got - want) <= _TOLERANCE * max(float(np.linalg.norm(want)), 1e-30))
