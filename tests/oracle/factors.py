"""Hold user-factors against the changelog: the same revisions, the same numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tests.oracle.logs import LogRecord
from tests.oracle.report import Report
from tests.oracle.revisions import Changelog
from tests.oracle.rowbytes import UserRow
from tests.oracle.rules import Rules
from tests.oracle.serving import expected
from tests.oracle.solve import ItemMatrix, ItemViews


def check_factors(
    number: int, changelog: Changelog, records: list[LogRecord], items: ItemViews, rules: Rules, report: Report
) -> None:
    """One partition: versions without gaps, and each record as its revision has it."""
    published: dict[bytes, list[dict[str, Any]]] = {}
    for record in records:
        body = _body(record, number, report)
        if body is not None and record.key is not None:
            published.setdefault(record.key, []).append(body)
    report.published += sum(map(len, published.values()))
    rows = {
        key: {
            row.version: row
            for row in [*_start(changelog, key), *(one.row for one in changelog.revisions.get(key, []))]
        }
        for key in changelog.starts.keys() | changelog.revisions.keys()
    }
    for key in sorted(rows.keys() | published.keys()):
        name = f"user {key.decode(errors='replace')!r} of partition {number}"
        bodies = published.get(key, [])
        versions = [body.get("version") for body in bodies]
        expected = sorted(rows.get(key, {}))
        if versions != expected and versions != [one for one in expected if one in versions]:
            report.found(f"versions: {name} was published in versions {_few(versions)}, not {_few(expected)}")
        missing = [one.row.version for one in changelog.revisions.get(key, []) if one.row.version not in versions]
        if missing:
            report.found(f"factors: {name} never was published in versions {_few(missing)}")
        for body in bodies:
            row = rows.get(key, {}).get(body.get("version"))  # type: ignore[arg-type]  # None finds nothing
            if row is not None:
                _compare(name, key, body, row, items, rules, report)


def _start(changelog: Changelog, key: bytes) -> list[UserRow]:
    return [changelog.starts[key]] if key in changelog.starts else []


def _body(record: LogRecord, number: int, report: Report) -> dict[str, Any] | None:
    try:
        body = json.loads(record.value or b"")
    except ValueError:
        body = None
    if record.key is None or not isinstance(body, dict):
        report.found(f"factors: the record at {record.offset} of partition {number} is no factor record")
        return None
    return body


def _compare(
    name: str, key: bytes, body: dict[str, Any], row: UserRow, items: ItemViews, rules: Rules, report: Report
) -> None:
    suppressed = [one.item_id for one in row.suppressed or [] if one.until >= one.positive]
    expected: dict[str, object] = {
        "id": key.decode(),
        "kind": "user",
        "dimension": rules.dimension,
        "model_version": rules.model_version,
        "events": row.events,
        "event_time": row.event_time,
        "suppressed": suppressed,
    }
    differing = [field for field, value in expected.items() if body.get(field) != value]
    if sorted(body.get("suppressed") or []) == suppressed and "suppressed" in differing:
        differing.remove("suppressed")
    if rules.serves:
        differing += served_otherwise(body, row, items.at(row.epochs), rules)
    elif np.array(body.get("vector", []), np.float32).tobytes() != row.vector.tobytes():
        differing.append("vector")
    if row.source_next and body.get("items_epoch") != row.epochs:
        differing.append("items_epoch")
    if differing:
        report.found(f"factors: {name} version {row.version} was published with another {', '.join(differing)}")


def served_otherwise(body: dict[str, Any], row: UserRow, items: ItemMatrix, rules: Rules) -> list[str]:
    """The fields of a record that differ from what must be made of the row."""
    want, differing = expected(row, items, rules), []
    size = 1e-5 * max(float(np.linalg.norm(want.vector)), float(np.linalg.norm(row.vector)), 1e-30)
    if not np.linalg.norm(np.array(body.get("vector"), np.float64) - want.vector) <= size:
        differing.append("vector")
    session = body.get("session")
    if (session is None) != (want.session is None):
        differing.append("session")
    elif want.session is not None:
        apart = np.linalg.norm(np.array(session, np.float64) - want.session)
        if not apart <= 1e-5 * np.linalg.norm(want.session):
            differing.append("session")
    wanted = {"basis": want.basis, "prior": None, "history_weight": None, "session_weight": None} | want.shares
    return [*differing, *(name for name, value in wanted.items() if body.get(name) != value)]


def _few(numbers: list[Any]) -> str:
    shown = ", ".join(str(number) for number in numbers[:12])
    return f"[{shown}{', ...' if len(numbers) > 12 else ''}]"
