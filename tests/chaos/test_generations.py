"""A new generation takes the place of the old one while events flow, and whatever crashes on the way."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.request import urlopen

import pytest

from tests.chaos.conftest import MakeWorld
from tests.chaos.world import World
from tests.oracle.hashes import generation_id
from tests.oracle.logs import Log, LogRecord, Logs
from tests.oracle.read import _consumer, _read, read_logs
from tests.oracle.rules import Rules
from tests.oracle.swap import Generation, Swap, check_swap

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# Items stand still and none comes in, so that every vector can be solved again. The events are of no taste at all: what
# is learnt of them foretells nothing.
STANDING = {
    "FACTORS_POLICY__SGD_RATE": "0",
    "FACTORS_POLICY__NEW_ITEMS_CAP": "0",
    "FACTORS_GATES__RECALL_OVER_POPULARITY": "0",
    "FACTORS_GATES__RECALL_OVER_ACTIVE": "0",
    # The first model is of a file, whose events never were in the topic.
    "FACTORS_GATES__ITEMS_OVER_ACTIVE": "0",
    "FACTORS_GATES__USERS_OVER_ACTIVE": "0",
}
_SECONDS = 60.0


def swapped(world: World, patches: Sequence[str] = (), *, names: Sequence[str] = ("a",)) -> Swap:
    """Events, a second model of the topic's own events in the midst of others, and rest."""
    for name in names:
        world.start(name, ["renew_in_small_steps", *patches])
    world.send(250)
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(world.command, "bootstrap", "run", "--json")
        while not training.done():
            world.send(5)
            time.sleep(0.02)
        training.result()
    world.send(60)
    return at_rest(world, names)


def at_rest(world: World, names: Sequence[str]) -> Swap:
    """Restart what died, wait until everything is settled, stop, and compare."""
    world.wait_for(lambda: _settled(world, names), _SECONDS, lambda: "rows of the old generation are left")
    world.wait_caught_up()
    world.wait_for(lambda: _settled(world, names), _SECONDS, lambda: "rows of the old generation are left")
    for worker in world.workers:
        worker.signal(signal.SIGTERM)
    for worker in world.workers:
        worker.wait(20)
    return check_swap(*_read_swap(world))


def _settled(world: World, names: Sequence[str]) -> bool:
    running = {worker.name: worker for worker in world.workers if worker.running}
    for name in names:
        if name not in running:
            running[name] = world.start(name, ["renew_in_small_steps"])
    active = _active(world)["model_version"]
    for worker in running.values():
        try:
            with urlopen(f"http://127.0.0.1:{worker.port}/metrics", timeout=1) as answer:
                text = answer.read().decode()
        except OSError:
            return False
        if f'factors_model_info{{model_version="{active}"}} 1.0' not in text:
            return False
        renewing = re.search(r"^factors_partitions_renewing (\S+)", text, re.MULTILINE)
        if renewing is None or renewing[1] != "0.0":
            return False
    return world.lag() == 0


def _active(world: World) -> dict[str, object]:
    newest = [one.value for one in _topic(world, "control") if one.key == b"active"][-1]
    found: dict[str, object] = json.loads(newest or b"{}")
    return found


def _read_swap(world: World) -> tuple[Logs, Generation]:
    active = _active(world)
    version = str(active["model_version"])
    logs = read_logs(world.servers, world.prefix, world.group, items_group=world.items_group, model_version=version)
    items = _log(world, str(active["item_topic"]).removeprefix(world.prefix))
    rules = Rules.of_manifest(logs.manifest, partitions=len(logs.interactions))
    manifest = json.loads(logs.manifest)
    trained = min(manifest["training_data_end"], manifest["cut_time"] or manifest["training_data_end"])
    first = json.loads(_topic(world, "control")[0].value or b"")["model_version"]
    return logs, Generation(int(str(active["generation"]), 16), generation_id(first), rules, trained, items)


def test_nothing_is_lost_and_nothing_mixed(make_world: MakeWorld) -> None:
    """One worker of both roles, a model trained while events flow; Oryx would lose those since the training's cut."""
    found = swapped(make_world(model="bootstrap", role="all", lag_ms=200, environment=STANDING))
    assert found.violations == []
    assert found.withdrawn or found.items


@pytest.mark.parametrize("point", ["after_cut:2", "after_renewal:3"])
def test_a_kill_in_the_midst_changes_nothing(make_world: MakeWorld, point: str) -> None:
    """SIGKILL behind a cut, and within the pass over the rows."""
    world = make_world(model="bootstrap", role="all", lag_ms=200, environment=STANDING)
    assert swapped(world, [point]).violations == []
    assert world.workers[0].ended_with == -signal.SIGKILL, "the fault never struck"


def apart(world: World, *patches: str) -> Swap:
    """Users in one worker, items in another one, which is slow to load what is announced."""
    world.role = "items"
    world.start("slow", ["renew_in_small_steps", "load_slowly", *patches])
    world.role = "users"
    world.start("quick", ["renew_in_small_steps"])
    world.role = "all"
    return swapped(world, names=())


def test_signals_wait_for_owners_that_are_still_to_cut_over(make_world: MakeWorld) -> None:
    """What quicker users send of the new generation waits in the log, and is taken after the cut."""
    assert apart(make_world(model="bootstrap", role="all", lag_ms=200, environment=STANDING)).violations == []


def test_without_waiting_signals_are_lost(make_world: MakeWorld) -> None:
    """The defence taken away: what comes early is dropped as if it were late."""
    found = apart(make_world(model="bootstrap", role="all", lag_ms=200, environment=STANDING), "no_waiting")
    assert any("it came early" in problem for problem in found.violations)


def test_without_catching_up_events_are_lost(make_world: MakeWorld) -> None:
    """The defence taken away: what Oryx does."""
    found = swapped(make_world(model="bootstrap", role="all", lag_ms=200, environment=STANDING), ["no_catching_up"])
    assert any(problem.startswith("signals:") for problem in found.violations)


def taken_over(world: World, *patches: str) -> Swap:
    """The worker that has cut everything over ends, and one that is still loading the new generation takes over."""
    quick = world.start("quick", ["renew_in_small_steps"])
    world.start("slow", ["renew_in_small_steps", "load_for_20s", *patches])
    world.send(250)
    world.wait_caught_up()
    world.command("bootstrap", "run", "--json")
    world.send(60)
    world.wait_for(lambda: "generation_settled" in quick.log.read_text(), _SECONDS, world.last_words)
    quick.signal(signal.SIGTERM)
    quick.wait(20)
    world.send(30)
    return at_rest(world, ["slow"])


def test_nobody_cuts_back_to_what_it_serves_still(make_world: MakeWorld) -> None:
    """A partition that has cut over waits for its new owner to load what it is at."""
    assert taken_over(make_world(model="bootstrap", role="all", lag_ms=200, environment=STANDING)).violations == []


def test_cutting_back_would_tell_items_twice(make_world: MakeWorld) -> None:
    """The defence taken away."""
    world = make_world(model="bootstrap", role="all", lag_ms=200, environment=STANDING)
    assert any(problem.startswith("signals:") for problem in taken_over(world, "cut_back").violations)


def test_two_workers_and_back_again(make_world: MakeWorld) -> None:
    """`models rollback`: the first model once more, from its trained vectors, by a third generation's number."""
    world = make_world(model="bootstrap", role="all", lag_ms=200, environment=STANDING)
    first = _active(world)["model_version"]
    assert swapped(world, names=("a", "b")).violations == []
    world.start("a", ["renew_in_small_steps"])
    world.start("b", ["renew_in_small_steps"])
    world.send(50)
    world.command("streamer", "models", "rollback")
    world.send(50)
    found = at_rest(world, ["a", "b"])
    assert _active(world)["model_version"] == first
    assert found.violations == []


def test_what_cannot_be_served_is_refused_and_the_old_one_goes_on(make_world: MakeWorld) -> None:
    """Another dimension or checksum, a number that is not finite, no vectors: each with a word; events flow on."""
    world = make_world(model="bootstrap", role="all", lag_ms=200, environment=STANDING)
    worker = world.start()
    world.send(50)
    world.wait_caught_up()
    (good,) = [record for record in _topic(world, "models") if record.value]
    items = [record for record in _topic(world, "item-factors") if record.value]
    for number, name in enumerate(("short", "checksum", "nonfinite", "empty"), 1):
        vectors = {record.key: json.loads(record.value or b"") for record in items}
        for body in vectors.values():
            body["model_version"] = name
        first = next(iter(vectors.values()))
        if name == "short":
            first["vector"] = first["vector"][:-1]
        elif name == "checksum":
            first["vector"][0] += 0.5
        elif name == "nonfinite":
            first["vector"][0] = 1e39  # beyond float32
        topic = f"item-factors.{name}"
        world.make_topic(topic)
        for key, body in vectors.items() if name != "empty" else ():
            world.produce(topic, key or b"", json.dumps(body).encode())
        manifest = json.loads(good.value or b"") | {"model_version": name}
        world.produce("models", name.encode(), json.dumps(manifest).encode())
        command = {
            "command": "activate",
            "model_version": name,
            "at": 1,
            "item_topic": f"{world.prefix}{topic}",
            "generation": f"{number:016x}",
        }
        world.produce("control", b"active", json.dumps(command).encode())
        world.wait_for(
            lambda name=name: name in _info(worker.port)["refused_models"],  # type: ignore[misc]
            _SECONDS,
            lambda: "the model is not refused",
        )
    world.send(50)
    world.wait_caught_up()
    assert _info(worker.port)["model_version"] == json.loads(good.value or b"")["model_version"]
    said = worker.log.read_text()
    for word in ("a dimension other than 8", "checksum", "not finite", "holds no item vector"):
        assert word in said, word
    assert {json.loads(one.value or b"")["model_version"] for one in _topic(world, "user-factors")} == {
        json.loads(good.value or b"")["model_version"]
    }
    worker.kill()
    again = world.start("a")
    world.send(50)
    world.wait_caught_up()
    found = _info(again.port)
    assert found["model_version"] == json.loads(good.value or b"")["model_version"]
    assert found["refused_models"] == ["empty"]


def _topic(world: World, name: str) -> list[LogRecord]:
    return [record for log in _log(world, name).values() for record in log]


def _log(world: World, name: str) -> Log:
    consumer = _consumer(world.servers, f"{world.prefix}look")
    try:
        return _read(consumer, f"{world.prefix}{name}")
    finally:
        consumer.close()


def _info(port: int) -> dict[str, Any]:
    with urlopen(f"http://127.0.0.1:{port}/info", timeout=2) as answer:
        found: dict[str, Any] = json.load(answer)
    return found
