"""The same scenarios with one defence taken away: each must end in violations, else it proves nothing."""

from __future__ import annotations

import pytest

from tests.chaos.conftest import MakeWorld
from tests.chaos.scenarios import killed_at, shaken, zombie
from tests.chaos.test_fault_points import SOLVERS
from tests.oracle.report import Report

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def _words(report: Report) -> set[str]:
    return {line.split(":")[0] for line in report.violations}


@SOLVERS
def test_a_store_written_before_the_commit_loses_events(make_world: MakeWorld, solver: str) -> None:
    """The store remembers events that never happened: read again they are duplicates, and never published."""
    assert {"versions", "signals"} <= _words(killed_at(make_world(solver=solver), "before_commit:6", "store_first"))


@SOLVERS
def test_without_fencing_a_zombie_doubles_its_batch(make_world: MakeWorld, solver: str) -> None:
    """Its open transaction commits after the new owner has done the same work."""
    assert "versions" in _words(zombie(make_world(solver=solver), "no_fencing"))


@SOLVERS
def test_without_the_gap_guard_dropped_messages_are_lost(make_world: MakeWorld, solver: str) -> None:
    """The next span is taken as if nothing were missing."""
    assert "rows" in _words(shaken(make_world(solver=solver), "lose_a_span:6", "no_gap_guard"))
