"""Hold the dead letters against the input: exactly the expected records, as they came."""

from __future__ import annotations

from tests.oracle.logs import LogRecord, Logs
from tests.oracle.report import Report

_ADDED = (
    "__streams.errors.topic",
    "__streams.errors.partition",
    "__streams.errors.offset",
    "__streams.errors.exception",
    "__streams.errors.message",
    "__streams.errors.stacktrace",
    "factors.reason",
    "factors.errors",
)


def check_letters(expected: dict[tuple[int, int], str], logs: Logs, report: Report) -> None:
    """``expected``: the reason of each dead letter by the partition and offset of its origin."""
    origins = {
        (record.partition, record.offset): record for records in logs.interactions.values() for record in records
    }
    seen: set[tuple[int, int]] = set()
    for letter in (record for records in logs.dead_letters.values() for record in records):
        report.dead_letters += 1
        added = {name: value for name, value in letter.headers if name in _ADDED}
        place = _origin(added)
        if place is None:
            report.found(f"letters: {letter.partition}/{letter.offset} does not say where it came from")
            continue
        name = f"the dead letter of {place[0]}/{place[1]}"
        if place in seen:
            report.found(f"letters: {name} is there twice")
        seen.add(place)
        if place not in expected:
            report.found(f"letters: {name} should not be one")
        else:
            _compare(name, letter, added, origins[place], expected[place], report)
    for place in sorted(expected.keys() - seen):
        report.found(f"letters: {place[0]}/{place[1]} is missing ({expected[place]})")


def _origin(added: dict[str, bytes | None]) -> tuple[int, int] | None:
    try:
        return int(added["__streams.errors.partition"] or b""), int(added["__streams.errors.offset"] or b"")
    except (KeyError, ValueError):
        return None


def _compare(
    name: str,
    letter: LogRecord,
    added: dict[str, bytes | None],
    origin: LogRecord,
    reason: str,
    report: Report,
) -> None:
    if added.get("factors.reason") != reason.encode():
        report.found(f"letters: {name} has the reason {added.get('factors.reason')!r} instead of {reason!r}")
    if set(added) != set(_ADDED):
        report.found(f"letters: {name} lacks the headers {sorted(set(_ADDED) - set(added))}")
    if letter.value != origin.value:
        report.found(f"letters: {name} has another value than the record")
    if letter.key != origin.key and not (origin.key is None and origin.value is None):
        report.found(f"letters: {name} has another key than the record")
    kept = [(header, value or b"") for header, value in letter.headers if header not in _ADDED]
    if kept != [(header, value or b"") for header, value in origin.headers]:
        report.found(f"letters: {name} has other headers than the record")
