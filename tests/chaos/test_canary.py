"""A generation is tried on half of the users of a real worker, and a rule says what becomes of it."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.request import urlopen

import pytest

from tests.chaos.conftest import MakeWorld
from tests.chaos.test_generations import STANDING, _active, _topic, at_rest
from tests.chaos.world import World
from tests.oracle.hashes import generation_id

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EVERYTHING = STANDING | {
    "FACTORS_QUALITY__SAMPLE": "1.0",
    "FACTORS_QUALITY__CPU": "1.0",
    "FACTORS_QUALITY__PER_SECOND": "10000",
    "FACTORS_CANARY__MIN_EVENTS": "40",
    "FACTORS_CANARY__MARGIN": "1.0",
}
NO_BOUND, THE_SAME = {"FACTORS_CANARY__MAX_NORM_RATIO": "1e6"}, {"FACTORS_CANARY__MAX_NORM_RATIO": "1"}
_SECONDS = 60.0


def tried(world: World) -> tuple[str, str]:
    """A worker serves the first model, and tries a second one on half of the users; returns both versions."""
    worker = world.start("a")
    world.send(200)
    world.wait_caught_up()
    first = str(_active(world)["model_version"])
    second = str(json.loads(world.command("bootstrap", "run", "--no-activate", "--json"))["model_version"])
    world.command("streamer", "models", "canary", second, "--fraction", "0.5")
    world.wait_for(lambda: _shares(worker.port) == {first: 0.5, second: 0.5}, _SECONDS, lambda: "it is not tried")
    return first, second


def _shares(port: int) -> dict[str, float]:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = re.findall(r'^factors_model_traffic_ratio\{model_version="([^"]+)"\} (\S+)', text, re.MULTILINE)
    return {version: float(share) for version, share in found}


def _users_of(world: World) -> set[str]:
    newest: dict[Any, str] = {}
    for record in _topic(world, "user-factors"):
        newest[record.key] = json.loads(record.value or b"")["model_version"]
    return set(newest.values())


def _sent_until_judged(world: World, first: str) -> None:
    worker = world.workers[0]

    def judged() -> bool:
        world.send(20)
        return len(_shares(worker.port)) == 1

    world.wait_for(judged, _SECONDS, lambda: f"no verdict; {first} is served still")


def test_one_that_is_as_good_becomes_everybodys(make_world: MakeWorld) -> None:
    """Users of both models meanwhile; then all of the new one, and every item heard of every event once."""
    world = make_world(model="bootstrap", role="all", lag_ms=200, environment=EVERYTHING | NO_BOUND)
    first, second = tried(world)
    world.send(60)
    world.wait_caught_up()
    assert _users_of(world) == {first, second}
    _sent_until_judged(world, first)
    assert _active(world)["model_version"] == second
    assert at_rest(world, ["a"]).violations == []


def test_one_that_is_not_leaves_no_trace(make_world: MakeWorld) -> None:
    """No two models' vectors have exactly the same length: with that as the bound any is given up."""
    world = make_world(model="bootstrap", role="all", lag_ms=200, environment=EVERYTHING | THE_SAME)
    first, second = tried(world)
    _sent_until_judged(world, first)
    assert _active(world)["model_version"] == first
    world.wait_caught_up()
    world.wait_for(lambda: _users_of(world) == {first}, _SECONDS, lambda: f"users of {second} are left")
    rows: dict[Any, bytes] = {}
    for record in _topic(world, "user-state"):
        if record.key not in (b"", b"\xffgeneration"):
            rows[record.key] = record.value or b""
    assert {int.from_bytes(row[16:24], "little") for row in rows.values()} == {generation_id(first)}
