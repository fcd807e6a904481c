"""A worker killed at each step of the commit order, and restarted, leaves what an undisturbed one would."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.conftest import MakeWorld
from tests.chaos.scenarios import damaged, killed_at, killed_in_restore, shaken, undisturbed, zombie, zombie_in_open
from tests.chaos.world import World
from tests.oracle.report import Report

pytestmark = [pytest.mark.integration, pytest.mark.slow]


SOLVERS = pytest.mark.parametrize("solver", ["cholesky", "cg"])
"""The one whose vectors the oracle compares bit by bit, and the one that serves, whose records the kernel writes."""


@SOLVERS
def test_an_undisturbed_run_is_the_recompute(make_world: MakeWorld, solver: str) -> None:
    """Outcomes, rows, vectors, dead letters, signals, store and the worker's own counters."""
    report = undisturbed(make_world(solver=solver))
    assert report.violations == []
    assert report.worst_error <= 1e-5
    assert solver == "cg" or report.bitwise == report.vectors > 0


def test_a_model_of_the_bootstrap_job_is_a_start_like_any_other(make_world: MakeWorld) -> None:
    """Its users go on from the rows, keys and versions that the job published."""
    report = undisturbed(make_world(model="bootstrap"))
    assert report.violations == []
    assert report.bitwise == report.vectors > 0


@pytest.mark.parametrize(
    "point",
    [
        "after_fence:2",
        "after_read:6",
        "after_begin:6",
        "after_some_sends:6",
        "after_all_sends:6",
        "before_commit:6",
        "after_commit:6",
        "after_store:6",
    ],
)
@SOLVERS
def test_a_kill_at_any_step_loses_and_doubles_nothing(make_world: MakeWorld, point: str, solver: str) -> None:
    """SIGKILL at the step, in the middle of a backlog."""
    assert killed_at(make_world(solver=solver), point).violations == []


@pytest.mark.parametrize("point", ["after_all_sends:12", "after_commit:12"])
def test_a_kill_while_items_move_loses_and_doubles_nothing(make_world: MakeWorld, point: str) -> None:
    """Users and items in one worker: item rows too are the fold of their signals, each applied once."""
    report = killed_at(make_world(role="all", solver="cg"), point)
    assert report.violations == []
    assert report.item_revisions > 0
    assert report.new_items > 0


@SOLVERS
def test_a_kill_while_the_store_is_rebuilt_costs_nothing(make_world: MakeWorld, solver: str) -> None:
    """Half a store says how far it is, and goes on from there."""
    assert killed_in_restore(make_world(solver=solver)).violations == []


def test_a_damaged_store_comes_back_from_the_changelog(make_world: MakeWorld) -> None:
    """Set aside and rebuilt by the running worker; the partition goes on."""
    assert damaged(make_world(solver="cg", users=400)).violations == []


@SOLVERS
@pytest.mark.parametrize("mishap", ["lose_commit_reply:6", "refuse_a_batch:6", "lose_a_span:6"])
def test_a_mishap_that_kills_nobody_loses_and_doubles_nothing(make_world: MakeWorld, mishap: str, solver: str) -> None:
    """A commit of unknown outcome, an own abort, and messages that Faust drops."""
    assert shaken(make_world(solver=solver), mishap).violations == []


@SOLVERS
@pytest.mark.parametrize("scenario", [zombie, zombie_in_open])
def test_a_zombie_changes_nothing(make_world: MakeWorld, scenario: Callable[[World], Report], solver: str) -> None:
    """Whoever wakes after the session ended finds the partition fenced, and lives on."""
    assert scenario(make_world(solver=solver)).violations == []
