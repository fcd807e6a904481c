"""Hold a system that changed its generation, and came to rest, against a recompute. Nothing here knows the code.

What must be so once each partition is settled, whatever crashed on the way:

    rows       the history, keys and counts of each user are what the whole input gives, of both generations' time
    stamps     every row is of the activation that stands, every published vector of its model
    vectors    each is the solve of its history among the item vectors that the new model was published with
    versions   of each published key they only grow
    signals    the new generation's item owners heard of each event that its training does not hold once: of those after
               a partition's cut as they came, of the older ones from the histories
    items      the common topic holds the new model's vectors and no other; each item's row counts every signal that its
               partition had to take: the old generation's before its own cut, and all of the new one's
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.oracle.hashes import item_hash
from tests.oracle.logs import Log, LogRecord, Logs
from tests.oracle.replay import replay
from tests.oracle.rowbytes import UserRow, parse
from tests.oracle.rules import Rules
from tests.oracle.solve import ItemMatrix, ItemViews, solve

CUT_KEY = b"\xffgeneration"
_CUT = struct.Struct("<Qqb")
_SIGNAL = struct.Struct("<BBHfqQQ")
_COMPARED = ("events", "event_time", "source_next", "cap_day", "cap_count", "history", "keys", "suppressed")


@dataclass(slots=True)
class Swap:
    """What was found, and how much was compared."""

    violations: list[str] = field(default_factory=list)
    users: int = 0
    renewed: int = 0
    items: int = 0
    withdrawn: int = 0
    signals: int = 0
    caught_up: int = 0
    worst_error: float = 0.0


@dataclass(frozen=True, slots=True)
class Generation:
    """The one that stands: its number, its rules, the newest event it was trained on (ms), its own item topic.

    founding: the number of the one that was published straight into the topics.
    """

    number: int
    founding: int
    rules: Rules
    trained: int
    items: Log


def check_swap(logs: Logs, generation: Generation) -> Swap:
    """Items must have stood still (no learning rate), so that every vector can be solved again."""
    out, expected, may = Swap(), Counter[tuple[str, int]](), Counter[tuple[str, int]]()
    rules = generation.rules
    ids = [(record.key or b"").decode() for record in _flat(generation.items)]
    names = {item_hash(item_id, rules.item_key): item_id for item_id in ids}
    before_ids = {(record.key or b"").decode() for record in _flat(logs.items)} - set(ids)
    gone = {item_hash(item_id, rules.item_key): item_id for item_id in before_ids}
    ends = [len(records) and records[-1].offset + 1 for _, records in sorted(generation.items.items())]
    matrix = ItemViews(generation.items, rules).at(ends)
    for number, log in sorted(logs.user_state.items()):
        cut = _cut(log, generation, out)
        revisions = _rows(log, rules)
        starts = {key: rows[0] for key, rows in revisions.items() if rows[0].version == 1 and rows[0].source_next == 0}
        records = [record for record in logs.interactions[number] if record.offset < logs.committed.get(number, 0)]
        before = replay([record for record in records if record.offset < cut], starts, {}, rules)
        halfway = {**starts, **{key: rows[max(rows)] for key, rows in before.states.items()}}
        after = replay([record for record in records if record.offset >= cut], halfway, {}, rules)
        final = {**halfway, **{key: rows[max(rows)] for key, rows in after.states.items()}}
        expected += after.applied
        for key in sorted(final.keys() | revisions.keys()):
            _compare(key, revisions.get(key, []), final.get(key), generation, matrix, out)
        for row in halfway.values():
            if row.source_next <= rules.cut_offsets.get(number, -1):
                continue  # the training held all of it
            caught = [(names[one.item], one.time) for one in row.history if one.item in names]
            caught = [(item_id, at) for item_id, at in caught if at > generation.trained]
            out.caught_up += len(caught)
            expected.update(caught)
            # Of an item that is withdrawn its owner may hear, while the user's worker still knows its name.
            late = [(gone[one.item], one.time) for one in row.history if one.item in gone]
            may.update((item_id, at) for item_id, at in late if at > generation.trained)
        out.renewed += len(halfway)
    _check_published(logs, generation, out)
    _check_items(logs, generation, out)
    _check_signals(logs, generation, expected, may, out)
    _check_taken(logs, generation, out)
    if not (out.users and out.renewed and out.items and out.caught_up):
        out.violations.append(f"an empty comparison: {out}")
    return out


def _flat(log: Log) -> list[LogRecord]:
    return [record for records in log.values() for record in records if record.key is not None]


def _cut(log: list[LogRecord], generation: Generation, out: Swap) -> int:
    """The offset of the cut to this generation, which must be settled."""
    cuts = [_CUT.unpack(record.value or b"") for record in log if record.key == CUT_KEY]
    mine = [(offset, settled) for number, offset, settled in cuts if number == generation.number]
    if not mine or not mine[-1][1] or cuts[-1][0] != generation.number:
        out.violations.append(f"stamps: the cuts of a partition are {cuts}, not to {generation.number} and settled")
        return 0
    return int(mine[0][0])


def _rows(log: list[LogRecord], rules: Rules) -> dict[bytes, list[UserRow]]:
    found: dict[bytes, list[UserRow]] = {}
    for record in log:
        if record.key not in (None, b"", CUT_KEY) and record.value is not None:
            row = parse(record.value, rules.dimension, rules.history_capacity, rules.keys_capacity)
            found.setdefault(record.key, []).append(row)
    return found


def _compare(
    key: bytes, rows: list[UserRow], want: UserRow | None, generation: Generation, matrix: ItemMatrix, out: Swap
) -> None:
    out.users += 1
    name = key.decode(errors="replace")
    if not rows or want is None:
        out.violations.append(f"rows: user {name!r} has {'no row' if want else 'a row and no effect'}")
        return
    versions = [row.version for row in rows]
    if versions != list(range(versions[0], versions[0] + len(versions))):
        out.violations.append(f"versions: user {name!r} in the changelog: {versions}")
    got = rows[-1]
    for part in _COMPARED:
        if getattr(got, part) != getattr(want, part):
            out.violations.append(f"rows: user {name!r}: {part} {getattr(got, part)}, not {getattr(want, part)}")
    if got.generation != generation.number:
        out.violations.append(f"stamps: user {name!r} is of {got.generation:016x}")
    exact = solve(got, matrix, generation.rules)
    error = float(np.linalg.norm(got.vector.astype(np.float64) - exact)) / max(float(np.linalg.norm(exact)), 1e-30)
    out.worst_error = max(out.worst_error, error)
    if not error <= 1e-5:
        out.violations.append(f"vectors: user {name!r} is {error:.1e} from the solve of the history")


def _check_published(logs: Logs, generation: Generation, out: Swap) -> None:
    for number, records in logs.user_factors.items():
        newest: dict[bytes, dict[str, Any]] = {}
        for record in records:
            assert record.key is not None
            body = json.loads(record.value or b"{}")
            before = newest.get(record.key)
            if before is not None and not body["version"] > before["version"]:
                out.violations.append(f"versions: {record.key!r} from {before['version']} to {body['version']}")
            newest[record.key] = body
        rows = _rows(logs.user_state[number], generation.rules)
        for key, body in newest.items():
            if body["model_version"] != generation.rules.model_version:
                out.violations.append(f"stamps: {key!r} is published of {body['model_version']}")
            vector = np.array(body["vector"], np.float32)
            if key not in rows or vector.tobytes() != rows[key][-1].vector.tobytes():
                out.violations.append(f"factors: {key!r} is published with another vector than its row's")


def _check_items(logs: Logs, generation: Generation, out: Swap) -> None:
    """The common topic holds the new model's vectors under newer versions, and nothing of the old one."""
    trained = {record.key: json.loads(record.value or b"{}") for record in _flat(generation.items)}
    for records in logs.items.values():
        newest: dict[bytes, dict[str, Any]] = {}
        for record in records:
            assert record.key is not None
            if record.value is None:
                newest[record.key] = {}
                continue
            body, before = json.loads(record.value), newest.get(record.key)
            if before and not body["version"] > before["version"]:
                out.violations.append(f"versions: item {record.key!r} from {before['version']} to {body['version']}")
            newest[record.key] = body
        for key, body in newest.items():
            out.items += 1
            if not body:
                out.withdrawn += 1
            if bool(body) != (key in trained):
                out.violations.append(f"items: {key!r} is {'there' if body else 'withdrawn'} against the model")
            elif body and body["vector"] != trained[key]["vector"]:
                out.violations.append(f"items: {key!r} has another vector than the model")
            elif body and body["model_version"] != generation.rules.model_version:
                out.violations.append(f"stamps: item {key!r} is of {body['model_version']}")
    missing = trained.keys() - {record.key for record in _flat(logs.items)}
    if missing:
        out.violations.append(f"items: {sorted(missing, key=str)} were never published")


def _check_signals(
    logs: Logs, generation: Generation, expected: Counter[tuple[str, int]], may: Counter[tuple[str, int]], out: Swap
) -> None:
    found: Counter[tuple[str, int]] = Counter()
    for record in _flat(logs.signals):
        _, _, _, _, at, _, number = _SIGNAL.unpack_from(record.value or b"")
        if number == generation.number:
            found[(record.key or b"").decode(), at] += 1
    out.signals = found.total()
    for item_id, at in sorted(found.keys() | expected.keys()):
        got, want = found[item_id, at], expected[item_id, at]
        if not want <= got <= want + may[item_id, at]:
            out.violations.append(f"signals: {got} for {item_id!r} at {at} in the new generation, not {want}")


def _check_taken(logs: Logs, generation: Generation, out: Swap) -> None:
    """A signal counts where its partition is of its generation when its turn comes; it never comes too early."""
    for number, log in sorted(logs.item_state.items()):
        _cut(log, generation, out)
        cuts: dict[int, int] = {}
        for record in log:
            if record.key == CUT_KEY:
                stamp, offset, _ = _CUT.unpack(record.value or b"")
                cuts.setdefault(stamp, offset)
        taken: Counter[bytes] = Counter()
        for record in logs.signals[number]:
            stamp = _SIGNAL.unpack_from(record.value or b"")[6]
            at = [one for one, offset in cuts.items() if offset <= record.offset]
            if stamp == (at[-1] if at else generation.founding):
                taken[record.key or b""] += 1
            elif record.offset < cuts.get(stamp, 0):
                out.violations.append(f"items: the signal at {number}/{record.offset} was passed over: it came early")
        newest = {record.key: record.value for record in log if record.key not in (None, b"", CUT_KEY)}
        for key, row in newest.items():
            events = int.from_bytes((row or b"")[32:40], "little")
            if events != taken[key or b""]:
                out.violations.append(f"items: {key!r} took {events} signals of {taken[key or b'']}")
