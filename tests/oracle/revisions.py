"""The changelog of one partition as the revisions of each key, and the checks of its order alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tests.oracle.logs import LogRecord
from tests.oracle.report import Report
from tests.oracle.rowbytes import RowError, UserRow, parse
from tests.oracle.rules import Rules


@dataclass(frozen=True, slots=True)
class Revision:
    """One committed row: the changelog offset it has, its bytes, and what they say."""

    offset: int
    data: bytes
    row: UserRow


@dataclass(slots=True)
class Changelog:
    """One partition's changelog.

    Attributes:
        starts: rows that were bootstrapped, before the first marker.
        revisions: by key, what the worker wrote after.
        newest: the newest bytes of every key.
        marker: the last marker's source offset.
    """

    starts: dict[bytes, UserRow] = field(default_factory=dict)
    revisions: dict[bytes, list[Revision]] = field(default_factory=dict)
    newest: dict[bytes, bytes] = field(default_factory=dict)
    marker: int | None = None

    def wanted(self) -> dict[bytes, set[int]]:
        """At which source offsets a revision of each key was cut."""
        return {key: {one.row.source_next for one in many} for key, many in self.revisions.items()}


def read_changelog(records: list[LogRecord], number: int, rules: Rules, report: Report) -> Changelog:
    """Read one partition; bad rows, version gaps and transactions out of order become violations."""
    out = Changelog()
    cut = rules.cut_offsets.get(number, 0)
    pending: list[Revision] = []
    for record in records:
        if record.key == b"":
            _read_marker(out, record, pending, number, report)
            pending = []
            continue
        revision = _parse(record, number, rules, report)
        if revision is None:
            continue
        assert record.key is not None
        out.newest[record.key] = revision.data
        # The first transaction's rows precede the first marker too; bootstrapped ones have read no input.
        if out.marker is None and revision.row.source_next <= cut:
            out.starts[record.key] = revision.row
            continue
        before = out.revisions.setdefault(record.key, [])
        start = out.starts.get(record.key)
        last = before[-1].row.version if before else start.version if start else 0
        if revision.row.version != last + 1:
            report.found(
                f"versions: user {record.key.decode(errors='replace')!r} of partition {number} goes from"
                f" version {last} to {revision.row.version} in the changelog"
            )
        before.append(revision)
        pending.append(revision)
    if pending:
        report.found(f"rows: the changelog of partition {number} ends with {len(pending)} rows and no marker")
    return out


def _read_marker(out: Changelog, record: LogRecord, pending: list[Revision], number: int, report: Report) -> None:
    if record.value is None or len(record.value) != 8:
        report.found(f"rows: the marker at {record.offset} of partition {number} is not 8 bytes")
        return
    (marker,) = struct.unpack("<q", record.value)
    before = out.marker or 0
    if marker <= before:
        report.found(f"offsets: the marker of partition {number} goes from {before} to {marker}")
    for revision in pending:
        if not before < revision.row.source_next <= marker:
            report.found(
                f"rows: a row of partition {number} claims source offset {revision.row.source_next}"
                f" in a transaction from {before} to {marker}"
            )
    out.marker = int(marker)


def _parse(record: LogRecord, number: int, rules: Rules, report: Report) -> Revision | None:
    name = f"the row at {record.offset} of partition {number}"
    if record.key is None or record.value is None:
        report.found(f"rows: {name} has no {'key' if record.key is None else 'value'}")
        return None
    try:
        row = parse(record.value, rules.dimension, rules.history_capacity, rules.keys_capacity)
    except RowError as error:
        report.found(f"rows: {name} can't be read: {error}")
        return None
    return Revision(record.offset, record.value, row)
