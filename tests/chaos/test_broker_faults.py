"""The broker itself dies and freezes under load, and stays away: the worker waits, says so, and goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from ops.broker import LocalBroker
from tests.chaos.churn import Load
from tests.chaos.processes import WorkerProcess
from tests.chaos.scenarios import finish
from tests.chaos.world import World

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(0)]

_SEED = int(os.environ.get("CHAOS_SEED", time.time_ns() % 2**32))
_RATE = 600
_LIVES, _MANY_LIVES = 4, 15


@pytest.fixture
def own_broker() -> Iterator[LocalBroker]:
    """A broker that nobody else needs."""
    with LocalBroker() as broker:
        yield broker


@pytest.fixture
def world(own_broker: LocalBroker, tmp_path: Path) -> Iterator[World]:
    with World(
        own_broker.bootstrap_servers,
        "broker-faults.",
        tmp_path,
        solver="cg",
        role="all",
        partitions=6,
        users=300,
        seed=_SEED,
        batch_events=512,
    ) as made:
        yield made


def readiness(worker: WorkerProcess) -> tuple[int, str]:
    """What /readyz says: status and reason."""
    try:
        with urlopen(f"http://127.0.0.1:{worker.port}/readyz", timeout=5) as answer:  # our own
            return answer.status, json.load(answer)["reason"]
    except HTTPError as problem:
        return problem.code, json.load(problem)["reason"]


def test_a_broker_that_dies_and_freezes_costs_nothing(
    own_broker: LocalBroker, world: World, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL and restart, or frozen for up to 18 s, again and again; and the worker still stops as it should."""
    lives = _MANY_LIVES if request.config.getoption("markexpr") == "chaos" else _LIVES
    draw, faults = random.Random(_SEED), {"SIGKILL": 0, "frozen": 0}
    print(f"seed {_SEED}")
    worker = world.start()
    world.send(300)
    world.wait_caught_up()
    with Load(world, _RATE):
        for life in range(lives):
            time.sleep(draw.uniform(1.0, 3.0))
            if life % 4 == 2:
                faults["frozen"] += 1
                own_broker.pause()
                time.sleep(draw.uniform(4.0, 18.0))
                own_broker.resume()
            else:
                faults["SIGKILL"] += 1
                own_broker.kill()
                time.sleep(draw.uniform(0.0, 3.0))
                own_broker.start()
    world.wait_caught_up()
    world.wait_for(lambda: readiness(worker)[0] == 200, 20, lambda: f"not ready: {readiness(worker)}")
    # As soon as by an undisturbed one: nothing of its clients may be left waiting for what never comes.
    worker.signal(signal.SIGTERM)
    assert worker.wait(10.0) == 0, world.last_words()
    assert '"event":"stopped"' in worker.log.read_text()
    report = finish(world)
    with capsys.disabled():
        print(f"\nseed {_SEED}; broker: {faults}\n{report}")
    assert report.violations == []


def test_a_broker_that_stays_away_is_told_and_holds_up_no_stop(own_broker: LocalBroker, world: World) -> None:
    """/readyz says since when nobody answers, /livez stays true; SIGTERM takes no longer than its bound."""
    worker = world.start()
    world.send(300)
    world.wait_caught_up()
    with Load(world, _RATE):
        time.sleep(1.0)
    own_broker.kill()
    world.wait_for(
        lambda: readiness(worker)[1].startswith(f"no broker answers at {own_broker.bootstrap_servers} since 20"),
        15,
        lambda: f"readiness: {readiness(worker)}",
    )
    assert readiness(worker)[0] == 503
    with urlopen(f"http://127.0.0.1:{worker.port}/livez", timeout=5) as answer:
        assert answer.status == 200
    worker.signal(signal.SIGTERM)
    code = worker.wait(30.0)
    assert code in (0, 3), world.last_words()
    # Its end without a goodbye costs nothing: the next worker goes on where it was.
    own_broker.start()
    world.start()
    world.wait_caught_up()
    world.workers.remove(worker)
    assert finish(world).violations == []
