"""Hold the item signals against the input: one for each applied event, where the item's owner reads it.

None for an event that a return had voided before it came. Of pairs there is at most one more for each of them: that of
the item drawn beside it.
"""

from __future__ import annotations

from collections import Counter

from tests.oracle.hashes import partition_of
from tests.oracle.items import read_signal
from tests.oracle.logs import Logs
from tests.oracle.report import Report
from tests.oracle.rules import Rules


def check_signals(applied: Counter[tuple[str, int]], logs: Logs, rules: Rules, report: Report) -> None:
    """``applied``: how many events of each item and event time were applied."""
    found: Counter[tuple[str, int]] = Counter()
    drawn: Counter[tuple[int, int, float]] = Counter()
    for number, records in logs.signals.items():
        for record in records:
            key, signal = record.key or b"", read_signal(record.value or b"", rules)
            if signal is None:
                report.found(f"signals: the record at {number}/{record.offset} is no signal")
                continue
            if partition_of(key, len(logs.signals)) != number:
                report.found(f"signals: the one at {number}/{record.offset} is not where its item's owner reads")
            drawn[signal.user, signal.at, signal.confidence] += 1 if signal.sign < 0 else -1
            if signal.sign > 0:
                found[key.decode(errors="replace"), signal.at] += 1
    for item_id, at in sorted(found.keys() | applied.keys()):
        got, want = found[item_id, at], applied[item_id, at]
        if got != want:
            report.found(f"signals: {got} for item {item_id!r} at {at}, where {want} events were applied")
    for (_, at, _), more in sorted(drawn.items()):
        if more > 0:
            report.found(f"signals: {more} drawn at {at} beside nothing")
