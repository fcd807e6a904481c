"""Recompute one partition from its input: outcomes, dead letters, and every row that a user must have had."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tests.oracle.fold import Outcome, apply_event, voided
from tests.oracle.hashes import generation_id, partition_of
from tests.oracle.judge import Judged, judge
from tests.oracle.logs import LogRecord
from tests.oracle.rowbytes import UserRow
from tests.oracle.rules import Rules

_EFFECTS = ("applied", "suppressed")


@dataclass(slots=True)
class Replay:
    """What a partition's input comes to.

    Attributes:
        outcomes: records by (outcome, reason).
        dead_letters: offset -> reason.
        states: user -> source_next -> the row after that event (without version, vector and epochs).
        applied: events applied and not voided by an earlier return, by item id and event time.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    dead_letters: dict[int, str] = field(default_factory=dict)
    states: dict[bytes, dict[int, UserRow]] = field(default_factory=dict)
    applied: Counter[tuple[str, int]] = field(default_factory=Counter)


def replay(
    records: list[LogRecord], starts: dict[bytes, UserRow], wanted: dict[bytes, set[int]], rules: Rules
) -> Replay:
    """Fold a partition's records into users that start from ``starts``.

    A copy of a user's row is kept at each ``source_next`` in ``wanted``, and of each user's last row always.
    """
    out = Replay()
    rows: dict[bytes, UserRow] = {key: row.copy() for key, row in starts.items()}
    for record in records:
        judged = judge(record, rules)
        outcome = _outcome(record, judged, rows, rules)
        out.outcomes[outcome] += 1
        if outcome[0] in ("dead_letter", "conflict"):
            out.dead_letters[record.offset] = outcome[1] or outcome[0]
        if outcome[0] not in _EFFECTS:
            continue
        assert record.key is not None
        assert judged.event is not None
        row = rows[record.key]
        if outcome[0] == "applied" and not voided(row, judged.event, rules):
            out.applied[judged.event["item_id"], judged.event["timestamp"]] += 1
        if row.source_next in wanted.get(record.key, ()):
            out.states.setdefault(record.key, {})[row.source_next] = row.copy()
    for key, row in _changed(rows, starts):
        out.states.setdefault(key, {})[row.source_next] = row
    return out


def _outcome(record: LogRecord, judged: Judged, rows: dict[bytes, UserRow], rules: Rules) -> Outcome:
    if judged.refused:
        return "dead_letter", judged.refused
    key = record.key
    assert key is not None
    assert judged.event is not None
    if key not in rows and partition_of(key, rules.partitions) != record.partition:
        return "dead_letter", "wrong_partition"
    if judged.withheld:
        return ("dead_letter" if judged.withheld == "future" else "filtered"), judged.withheld
    row = rows.get(key) or UserRow(np.zeros(rules.dimension, np.float32), [])
    outcome = apply_event(row, judged.event, record.offset, record.timestamp, rules)
    if outcome[0] in _EFFECTS:
        row.generation = generation_id(rules.model_version)
        rows[key] = row
    return outcome


def _changed(rows: dict[bytes, UserRow], starts: dict[bytes, UserRow]) -> Iterator[tuple[bytes, UserRow]]:
    for key, row in rows.items():
        if key not in starts or row.source_next != starts[key].source_next:
            yield key, row
