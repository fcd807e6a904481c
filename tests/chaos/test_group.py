"""A worker stays in its group for as long as its loop turns, and comes back to it when it turns again."""

from __future__ import annotations

import time

import pytest

from tests.chaos.conftest import MakeWorld
from tests.chaos.scenarios import finish

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_a_worker_outlives_the_poll_interval(make_world: MakeWorld) -> None:
    """With and without events: the client counts only fetches that go through its own methods, which these don't."""
    world = make_world(solver="cg", role="all")
    worker = world.start("a", ["poll_within_4s"])
    world.send(30)
    world.wait_caught_up()
    for _ in range(10):
        time.sleep(0.5)
        world.send(2)
    time.sleep(5.0)
    world.send(30)
    world.wait_caught_up()
    assert worker.log.read_text().count('"event":"assigned"') == 2, "a role left its group"
    assert finish(world).violations == []


def test_a_loop_that_stood_still_gets_its_partitions_back(make_world: MakeWorld) -> None:
    """Beyond the interval the group takes them away; they come back by themselves, and nothing is lost or doubled."""
    world = make_world(solver="cg", role="all")
    worker = world.start("a", ["poll_within_4s", "stall:6"])
    world.send(30)
    world.wait_caught_up()
    world.send(60)
    world.wait_caught_up(90.0)
    joined = [line for line in worker.log.read_text().splitlines() if '"event":"assigned"' in line]
    assert len(joined) > 2, "neither role had to join its group again"
    assert finish(world).violations == []
