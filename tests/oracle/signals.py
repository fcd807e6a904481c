"""Hold the item signals against the input: one for each applied event, where the item's owner reads it."""

from __future__ import annotations

import struct
from collections import Counter

from tests.oracle.hashes import partition_of
from tests.oracle.logs import Logs
from tests.oracle.report import Report
from tests.oracle.rules import Rules

_HEAD = struct.Struct("<BBHfqQQ")
_FORMAT, _SIGNAL = 1, 3


def check_signals(applied: Counter[tuple[str, int]], logs: Logs, rules: Rules, report: Report) -> None:
    """``applied``: how many events of each item and event time were applied."""
    found: Counter[tuple[str, int]] = Counter()
    for number, records in logs.signals.items():
        for record in records:
            key, value = record.key or b"", record.value or b""
            size = _HEAD.size + 4 * rules.dimension
            if len(value) != size or _HEAD.unpack_from(value)[:3] != (_FORMAT, _SIGNAL, rules.dimension):
                report.found(f"signals: the record at {number}/{record.offset} is no signal")
                continue
            if partition_of(key, len(logs.signals)) != number:
                report.found(f"signals: the one at {number}/{record.offset} is not where its item's owner reads")
            found[key.decode(errors="replace"), _HEAD.unpack_from(value)[4]] += 1
    for item_id, at in sorted(found.keys() | applied.keys()):
        got, want = found[item_id, at], applied[item_id, at]
        if got != want:
            report.found(f"signals: {got} for item {item_id!r} at {at}, where {want} events were applied")
