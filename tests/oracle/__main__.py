"""`python -m tests.oracle`: compare a system at rest with a recompute of its input; 0 if both agree."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.oracle.audit import audit


def main() -> int:
    """Parse the arguments, compare, print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--prefix", default="factors.")
    parser.add_argument("--group", required=True, help="the user worker's consumer group")
    parser.add_argument("--items-group", help="the item worker's consumer group, where one ran")
    parser.add_argument(
        "--store", type=Path, nargs="*", default=[], help="each worker's folder with one store a partition"
    )
    parser.add_argument("--model-version", help="the generation; the last manifest otherwise")
    parser.add_argument("--solver", choices=("cholesky", "cg"), default="cg", help="cholesky compares bitwise")
    parser.add_argument("--tenant", help="the worker's events.tenant")
    parser.add_argument("--max-bytes", type=int, default=65536, help="the worker's events.max_bytes")
    parser.add_argument("--counters", type=Path, help='the worker\'s counts, JSON: {"outcome/reason": number}')
    given = parser.parse_args()
    counters = None
    if given.counters is not None:
        parts = ((name.partition("/"), count) for name, count in json.loads(given.counters.read_text()).items())
        counters = {(outcome, reason): count for (outcome, _, reason), count in parts}
    report = audit(
        given.bootstrap_servers,
        given.prefix,
        given.group,
        items_group=given.items_group,
        stores=given.store,
        solver=given.solver,
        model_version=given.model_version,
        tenant=given.tenant,
        max_bytes=given.max_bytes,
        counters=counters,
    )
    print(report)
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
