"""Compare a system at rest with a recompute of its input. Nothing here knows the code under test.

The checks, in the letters of their violations' first word:

    outcomes   each record of the input has one outcome; the worker's own counters agree
    rows       every revision in the changelog is, byte for byte, the row that the input up to it gives
    versions   revisions of a key are 1, 2, 3 ... in the changelog, and so in user-factors
    vectors    each revision's vector is the solve of its history
    factors    user-factors says what the changelog says, revision by revision
    store      every local store is the changelog up to the offset that it notes, and one is complete
    letters    the dead letters are the expected ones, each once, with the original bytes
    signals    the item side was told of each applied event once, where the item's owner reads
    items      each item row is the fold of its signals, and item-factors says the same
    offsets    committed offset and the changelog's last marker agree; no acknowledged event is missing
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from threadpoolctl import threadpool_limits

from tests.oracle.factors import check_factors
from tests.oracle.items import check_items
from tests.oracle.letters import check_letters
from tests.oracle.logs import LogRecord, Logs, StoreRows
from tests.oracle.replay import Replay, replay
from tests.oracle.report import Report
from tests.oracle.revisions import Changelog, Revision, read_changelog
from tests.oracle.rowbytes import UserRow, encode
from tests.oracle.rules import Rules
from tests.oracle.signals import check_signals
from tests.oracle.solve import ItemViews, solve

CG_TOLERANCE = 1e-5


def check(logs: Logs, rules: Rules, *, bitwise: bool) -> Report:
    """Run every check; ``bitwise``: vectors must be equal to the bit, else within 1e-5 of the exact solve."""
    with threadpool_limits(1):
        return _check(logs, rules, bitwise)


def _check(logs: Logs, rules: Rules, bitwise: bool) -> Report:
    report = Report()
    items = ItemViews(logs.items, rules)
    letters: dict[tuple[int, int], str] = {}
    signals: Counter[tuple[str, int]] = Counter()
    for number in sorted({*logs.interactions, *logs.committed, *logs.user_state}):
        records = list(_delivered(logs, rules, number))
        changelog = read_changelog(logs.user_state.get(number, []), number, rules, report)
        done = replay(records, changelog.starts, changelog.wanted(), rules)
        report.records += len(records)
        report.outcomes[number] = done.outcomes
        letters.update({(number, offset): reason for offset, reason in done.dead_letters.items()})
        signals.update(done.applied)
        _check_rows(number, changelog, done, rules, report)
        _check_vectors(number, changelog, items, rules, report, bitwise)
        check_factors(number, changelog, logs.user_factors.get(number, []), items, rules, report)
        _check_offsets(number, changelog, logs, rules, report)
        _check_store(number, changelog, logs, report)
    check_letters(letters, logs, report)
    check_signals(signals, logs, rules, report)
    if logs.items_committed is not None:
        check_items(logs, logs.items_committed, rules, report)
    _check_counters(logs, report)
    _check_acked(logs, report)
    if not report.records or not report.users or not report.published:
        report.found(
            f"outcomes: an empty comparison: {report.records} records, {report.users} users,"
            f" {report.published} published vectors"
        )
    return report


def _delivered(logs: Logs, rules: Rules, number: int) -> Iterator[LogRecord]:
    first, end = rules.cut_offsets.get(number, 0), logs.committed.get(number, 0)
    return (record for record in logs.interactions.get(number, []) if first <= record.offset < end)


def _check_rows(number: int, changelog: Changelog, done: Replay, rules: Rules, report: Report) -> None:
    touched = {key for key, revisions in changelog.revisions.items() if revisions}
    report.users += len(done.states.keys() | touched)
    for key in sorted(done.states.keys() - touched):
        report.found(f"rows: {_name(number, key)} has events with an effect and no row")
    for key in sorted(touched):
        revisions, states = changelog.revisions[key], done.states.get(key, {})
        for revision in revisions:
            report.revisions += 1
            expected = states.get(revision.row.source_next)
            if expected is None:
                report.found(
                    f"rows: {_name(number, key)} version {revision.row.version} claims an effect of the"
                    f" event before {revision.row.source_next}, which had none"
                )
            else:
                _compare_row(_name(number, key), revision, expected, rules, report)
        if states and revisions[-1].row.source_next != max(states):
            report.found(
                f"rows: {_name(number, key)} accounts for the input up to {revisions[-1].row.source_next},"
                f" its last effect is before {max(states)}"
            )


def _compare_row(name: str, revision: Revision, expected: UserRow, rules: Rules, report: Report) -> None:
    got = revision.row
    want = UserRow(
        got.vector,
        got.epochs,
        version=got.version,
        **{field: getattr(expected, field) for field in _COMPARED},
    )
    if encode(want, rules.history_capacity, rules.keys_capacity) == revision.data:
        return
    differences = [
        f"{field} {_short(getattr(got, field))} instead of {_short(getattr(want, field))}"
        for field in _COMPARED
        if getattr(got, field) != getattr(want, field)
    ]
    text = "; ".join(differences) or "padding or order of its bytes"
    report.found(f"rows: {name} version {got.version} differs: {text}")


_COMPARED = (
    "generation",
    "events",
    "event_time",
    "source_next",
    "cap_day",
    "cap_count",
    "key_head",
    "history",
    "keys",
    "suppressed",
    "segment",
    "segment_at",
)


def _check_vectors(
    number: int, changelog: Changelog, items: ItemViews, rules: Rules, report: Report, bitwise: bool
) -> None:
    for key, revisions in changelog.revisions.items():
        for revision in revisions:
            report.vectors += 1
            got, want = revision.row.vector, solve(revision.row, items.at(revision.row.epochs), rules)
            if got.tobytes() == want.tobytes():
                report.bitwise += 1
                continue
            size = max(float(np.linalg.norm(want)), 1e-30)
            error = float(np.linalg.norm(got.astype(np.float64) - want)) / size
            report.worst_error = max(report.worst_error, error if np.isfinite(error) else float("inf"))
            if bitwise or not error <= CG_TOLERANCE:
                report.found(
                    f"vectors: {_name(number, key)} version {revision.row.version} is not the solve of its"
                    f" history (relative error {error:.1e})"
                )


def _check_offsets(number: int, changelog: Changelog, logs: Logs, rules: Rules, report: Report) -> None:
    committed = logs.committed.get(number)
    if committed != changelog.marker:
        report.found(f"offsets: partition {number} committed {committed}, its changelog says {changelog.marker}")
    if committed is None and any(True for _ in logs.interactions.get(number, [])):
        report.found(f"offsets: partition {number} has records and no committed offset")
    end = logs.ends.get("interactions", {}).get(number)
    if end is not None and committed is not None and committed > end:
        report.found(f"offsets: partition {number} committed {committed}, beyond its end {end}")


def _check_store(number: int, changelog: Changelog, logs: Logs, report: Report) -> None:
    if logs.stores is None:
        return
    log = logs.user_state.get(number, [])
    furthest = 0
    for store in logs.stores.get(number, ()):
        if isinstance(store, str):
            report.found(f"store: {store}")
        else:
            furthest = max(furthest, store.offset)
            _compare_store(number, store, log, report)
    if log and furthest <= log[-1].offset:
        report.found(
            f"store: no store of partition {number} has read its changelog to the end: {furthest} of"
            f" {log[-1].offset + 1}"
        )


def _compare_store(number: int, store: StoreRows, log: list[LogRecord], report: Report) -> None:
    """A store, a stale one too, is the compacted changelog up to the offset that it has noted."""
    newest = {record.key: record.value for record in log if record.key and record.offset < store.offset}
    for key in sorted(newest.keys() | store.rows.keys()):
        report.store_rows += 1
        got, want = store.rows.get(key), newest.get(key)
        name = f"{_name(number, key)} in {store.name}"
        if got is None:
            report.found(f"store: {name} is missing, the changelog has it before {store.offset}")
        elif want is None:
            report.found(f"store: {name} is not in the changelog before {store.offset}")
        elif got != want:
            report.found(f"store: {name} has other bytes than the changelog before {store.offset}")


def _check_counters(logs: Logs, report: Report) -> None:
    if logs.counters is None:
        return
    counted, expected = Counter(logs.counters), report.totals()
    for outcome in sorted(counted.keys() | expected.keys()):
        if counted[outcome] != expected[outcome]:
            report.found(
                f"outcomes: the worker counted {counted[outcome]} of {'/'.join(outcome)}, there are {expected[outcome]}"
            )


def _check_acked(logs: Logs, report: Report) -> None:
    if logs.acked is None:
        return
    there = {(record.partition, record.offset) for records in logs.interactions.values() for record in records}
    for number, offset in sorted(logs.acked - there):
        report.found(f"offsets: the acknowledged event {number}/{offset} is not in the log")
    for number, offset in sorted(logs.acked):
        if offset >= logs.committed.get(number, 0):
            report.found(f"offsets: the acknowledged event {number}/{offset} was never processed")


def _name(number: int, key: bytes) -> str:
    return f"user {key.decode(errors='replace')!r} of partition {number}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."
