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

_SEED = int(os.environ.get("CHAOS_SEED", time.time_ns() % 2**32))
_BRIEF, _LONG = (25.0, 2), (300.0, 12)
_ROLE = os.environ.get("CHAOS_ROLE", "all")
_RATE = int(os.environ.get("CHAOS_RATE", "400"))


def _length(request: pytest.FixtureRequest) -> tuple[float, int]:
    """Seconds of churn, and restarts to time before; much more where chaos was asked for by its marker."""
    seconds, restarts = _LONG if request.config.getoption("markexpr") == "chaos" else _BRIEF
    return (
        float(os.environ.get("CHAOS_SECONDS", seconds)),
        int(os.environ.get("CHAOS_RESTARTS", restarts)),
    )


def test_churn_loses_and_doubles_nothing(
    make_world: MakeWorld, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    """Two workers killed, stopped, frozen and robbed of their disks under load; then the whole log is recomputed."""
    seconds, restarts = _length(request)
    print(f"seed {_SEED}")
    world = make_world(forged=False, role=_ROLE, solver="cg", partitions=6, users=300, seed=_SEED, batch_events=512)
    with Observer(world.servers, f"{world.prefix}user-state", world.partitions) as observer:
        outcome = Churn(world, observer, seed=_SEED, rate=_RATE).run(restarts=restarts, seconds=seconds)
    with capsys.disabled():
        print(f"\nseed {_SEED}\n{outcome}\n{outcome.report}")
    assert outcome.report.violations == []
    assert outcome.faults["SIGKILL"] >= restarts
    # The promise is 3.5 s on a machine of one's own; here the tests share two cores with the broker.
    assert statistics.median(outcome.resumed) < 8.0
    assert statistics.median(outcome.disturbed) < 1.5
