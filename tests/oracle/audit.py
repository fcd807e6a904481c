"""One call for tests and the command: read a system, recompute, compare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.oracle.check import check
from tests.oracle.logs import Log
from tests.oracle.read import read_logs
from tests.oracle.report import Report
from tests.oracle.rules import Rules


def audit(
    bootstrap_servers: str,
    prefix: str,
    group: str,
    *,
    items_group: str | None = None,
    stores: Sequence[Path] = (),
    solver: str = "cg",
    model_version: str | None = None,
    tenant: str | None = None,
    max_bytes: int = 65536,
    counters: dict[tuple[str, str], int] | None = None,
    acked: set[tuple[int, int]] | None = None,
) -> Report:
    """The report on a system at rest. See `tests.oracle.logs.Logs` for ``counters`` and ``acked``."""
    logs = read_logs(
        bootstrap_servers, prefix, group, items_group=items_group, model_version=model_version, stores=stores
    )
    logs.counters, logs.acked = counters, acked
    rules = Rules.of_manifest(
        logs.manifest,
        partitions=len(logs.interactions),
        tenant=tenant,
        max_bytes=max_bytes,
        invalid_items=_invalid(logs.catalogue),
    )
    # Where items move, a Gramian is updated step by step, and its last bits are its worker's own.
    return check(logs, rules, bitwise=solver == "cholesky" and items_group is None)


def _invalid(catalogue: Log) -> frozenset[str]:
    states: dict[str, str] = {}
    for records in catalogue.values():
        for record in records:
            if record.key is not None:
                entry = json.loads(record.value) if record.value else {}
                states[record.key.decode()] = entry.get("state", "active")
    return frozenset(item_id for item_id, state in states.items() if state != "active")
