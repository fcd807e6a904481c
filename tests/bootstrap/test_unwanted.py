"""What should not be in a list: the share agrees with a count of one place at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bootstrap.columns import columns_of
from bootstrap.evaluate import split
from bootstrap.fit import examine
from bootstrap.read import Log, judge_records
from bootstrap.unwanted import unwanted
from tests.bootstrap.small import KEY, NOW_MS, changed, event, quiet, recipe
from tests.bootstrap.test_parity import reader_of, records_of

if TYPE_CHECKING:
    from bootstrap.columns import Columns

KINDS = ("like", "like", "hide", "return")


def expected(columns: Columns, foretold: Any, item_ids: list[str]) -> int:
    """For each place: is the newest event of that user and item before the test event a suppressing one?"""
    count = 0
    for test, event_number in enumerate(foretold.event.tolist()):
        for number in foretold.lists[test].tolist():
            if number < 0:
                continue
            newest = [
                (columns.at[e], columns.kind[e] != 0)
                for e in range(len(columns))
                if columns.user[e] == columns.user[event_number]
                and columns.item_ids[columns.item[e]] == item_ids[number]
                and columns.at[e] < columns.at[event_number]
            ]
            count += bool(newest and max(newest)[1])
    return count


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    happened=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 7), st.sampled_from(KINDS), st.integers(0, 1)),
        min_size=40,
        max_size=80,
    )
)
def test_it_counts_what_is_suppressed_at_the_time(happened: list[tuple[int, int, str, int]]) -> None:
    """Hides and likes again, before the cut and after it, ties included."""
    policy, at, events = changed(), NOW_MS - 10_000_000, []
    for number, (user, item, kind, later) in enumerate(happened):
        at += later * 1_000
        events.append(event(f"u{user}", f"i{item}", kind, at, request_id=str(number)))
    log: Log = judge_records(records_of(events), reader_of(policy), policy, partitions=1)
    columns, _ = columns_of(log, policy, KEY)
    before, _ = split(columns, 0.5)
    if not (columns.kind[before] == 0).any():
        return
    found = examine(columns, recipe(policy, dimension=2, iterations=1), quiet)
    assert found is not None
    matrix, foretold = found.trained.matrix, found.foretold
    places = max(int((foretold.lists >= 0).sum()), 1)
    assert found.metrics["suppressed_share"] * places == pytest.approx(expected(columns, foretold, matrix.item_ids))
    withdrawn = set(matrix.item_ids[::2])
    share = unwanted(columns, foretold, matrix, withdrawn)["withdrawn_share"]
    offered = foretold.lists[foretold.lists >= 0]
    assert share == pytest.approx(np.mean(offered % 2 == 0) if len(offered) else 0.0)
