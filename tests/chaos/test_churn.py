"""Churn: whatever happens to the workers, nothing is lost and nothing is doubled. `make chaos` runs it for longer."""

from __future__ import annotations

import os
import statistics
import time

import pytest

from tests.chaos.churn import Churn
from tests.chaos.conftest import MakeWorld
from tests.chaos.observer import Observer

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(0)]

_SECONDS = float(os.environ.get("CHAOS_SECONDS", "20"))
_SEED = int(os.environ.get("CHAOS_SEED", time.time_ns() % 2**32))
_RESTARTS = int(os.environ.get("CHAOS_RESTARTS", "2"))
_RATE = int(os.environ.get("CHAOS_RATE", "400"))


def test_churn_loses_and_doubles_nothing(make_world: MakeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    """Two workers killed, stopped, frozen and robbed of their disks under load; then the whole log is recomputed."""
    world = make_world(solver="cg", partitions=6, users=300, seed=_SEED, batch_events=512)
    with Observer(world.servers, f"{world.prefix}user-state", world.partitions) as observer:
        outcome = Churn(world, observer, seed=_SEED, rate=_RATE).run(restarts=_RESTARTS, seconds=_SECONDS)
    with capsys.disabled():
        print(f"\nseed {_SEED}\n{outcome}\n{outcome.report}")
    assert outcome.report.violations == []
    assert outcome.faults["SIGKILL"] >= _RESTARTS
    assert not [fault for fault in outcome.faults if fault.startswith("stopped by itself")], world.last_words()
    # The promise is 3.5 s on a machine of one's own; here the tests share two cores with the broker.
    assert statistics.median(outcome.resumed) < 8.0
    assert statistics.median(outcome.disturbed) < 1.5
