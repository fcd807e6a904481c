"""A real worker foretells planted taste as the offline evaluation does, sees a shift, and has a generation trained."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ops.data import synthetic
from ops.data.dataset import write_ndjson
from schemas.records import Manifest, Retrain
from streamer.commands.cluster import consuming, places_of, read_to_end
from streamer.commands.generation import generations
from streamer.settings import Settings, load_settings
from tests.chaos.conftest import MakeWorld
from tests.chaos.events import Sent
from tests.chaos.processes import WorkerProcess
from tests.chaos.world import World

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SHAPE = synthetic.Shape(users=150, items=200, events=6_000, factors=6, sharpness=9.0, days=4)
EVERYTHING = {
    "FACTORS_QUALITY__SAMPLE": "1",
    "FACTORS_QUALITY__PER_SECOND": "1000000",
    "FACTORS_QUALITY__CPU": "1",
    "FACTORS_BOOTSTRAP__DIMENSION": "16",
    "FACTORS_BOOTSTRAP__ITERATIONS": "10",
    "FACTORS_POLICY__RIDGE": "3",
    "FACTORS_POLICY__HISTORY_CAPACITY": "128",
}


def planted(shape: synthetic.Shape) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]:
    """Events that end a second ago, in two halves."""
    return synthetic.load(3, shape).rebase(time.time_ns() // 1_000_000 - 1_000).split(0.5)


def sent(events: tuple[dict[str, Any], ...]) -> list[Sent]:
    return [Sent(one["user_id"].encode(), json.dumps(one).encode()) for one in events]


def measured(worker: WorkerProcess) -> dict[tuple[str, ...], float]:
    """Name and label values of every sample of the quality's metrics."""
    return {
        (sample.name.removeprefix("factors_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(worker.scrape())
        if family.name.startswith(("factors_prequential", "factors_drift"))
        for sample in family.samples
    }


def judged(worker: WorkerProcess) -> float:
    found = measured(worker)
    return sum(found.get(("prequential_judged_total", users), 0.0) for users in ("known", "new"))


def test_the_worker_judges_as_the_offline_evaluation_does(make_world: MakeWorld) -> None:
    """Every event, one partition, items standing still: the same recall, and far above what is popular."""
    before, after = planted(SHAPE)
    # Averages of everything: what fades could not be compared.
    settings = {**EVERYTHING, "FACTORS_QUALITY__WINDOW": "1000000", "FACTORS_BOOTSTRAP__TRAIN_FRACTION": "0.5"}
    world = make_world(
        model="bootstrap", solver="cg", partitions=1, batch_events=50, before=before, environment=settings
    )
    worker = world.start()
    world.send(sent(after))
    world.wait_caught_up()
    file = world.folder / "all.ndjson"
    write_ndjson(file, [*before, *after])
    offline = json.loads(world.command("bootstrap", "evaluate", "--events", str(file), "--json"))["metrics"]
    world.wait_for(
        lambda: judged(worker) >= offline["scored_events"], 30, lambda: f"{judged(worker)} judged of {offline}"
    )
    found = measured(worker)
    assert judged(worker) == offline["scored_events"]
    assert found["prequential_skipped_total",] == 0
    for model, name in (("live", ""), ("popularity", "popularity_")):
        assert found["prequential_recall", model] == pytest.approx(offline[f"{name}recall"], abs=0.01)
        assert found["prequential_ndcg", model] == pytest.approx(offline[f"{name}ndcg"], abs=0.01)
    for users in ("known", "new"):
        recall = offline[f"{users}_users_recall"]
        assert found["prequential_users_recall", "live", users] == pytest.approx(recall, abs=0.01)
    frozen = found["prequential_users_recall", "frozen", "known"]
    assert frozen == pytest.approx(offline["frozen_known_users_recall"], abs=0.01)
    assert found["prequential_recall", "live"] > 2 * found["prequential_recall", "popularity"]
    assert found["prequential_recall", "live"] > found["prequential_recall", "frozen"]


def settings_of(world: World) -> Settings:
    return load_settings(
        None, {"FACTORS_KAFKA__BOOTSTRAP_SERVERS": world.servers, "FACTORS_KAFKA__PREFIX": world.prefix}
    )


def announced(world: World) -> tuple[list[Manifest], str | None]:
    """The generations in the order of their publication, and the active one."""
    settings = settings_of(world)
    with consuming(settings) as consumer:
        known = generations(consumer, settings)
    return list(known.manifests.values()), known.active.model_version if known.active else None


def wishes(world: World) -> list[Retrain]:
    settings = settings_of(world)
    with consuming(settings) as consumer:
        records = read_to_end(consumer, places_of(consumer, settings.topic("control")))
        return [msgspec.json.decode(one.value, type=Retrain) for one in records if one.key == b"retrain"]


def test_a_shift_has_a_generation_trained(make_world: MakeWorld) -> None:
    """Events as before: no wish. Others: the worker asks, the waiting job trains; SIGTERM ends it with 0.

    Then the clock's rounds, which take over one after the other, are each the child of the one before.
    """
    before, after = planted(
        synthetic.Shape(users=150, items=200, events=6_000, factors=6, sharpness=3.0, drift=0.0, days=4)
    )
    settings = {
        **EVERYTHING,
        "FACTORS_QUALITY__WINDOW": "500",
        "FACTORS_QUALITY__PATIENCE": "2",
        "FACTORS_QUALITY__ASK_FOR_RETRAIN": "true",
        # What has shifted here is seven items that everybody buys: popularity foretells that best.
        "FACTORS_GATES__RECALL_OVER_POPULARITY": "0",
        # The first model is of a file, whose events never were in the topic.
        "FACTORS_GATES__ITEMS_OVER_ACTIVE": "0",
        "FACTORS_GATES__USERS_OVER_ACTIVE": "0",
    }
    world = make_world(model="bootstrap", solver="cg", before=before, environment=settings)
    [first], active = announced(world)
    assert active == first.model_version
    worker = world.start()
    world.send(sent(after[:2_000]))
    world.wait_caught_up()
    assert wishes(world) == []
    with world.running("bootstrap", "run", "--on-drift", "--min-interval", "1s", "--no-activate") as job:
        odd = [
            {**one, "item_id": f"item-{number % 7}", "event_type": "purchase", "request_id": f"odd-{number}"}
            for number, one in enumerate(after[:2_500])
        ]
        world.send(sent(tuple(odd)))
        world.wait_for(lambda: len(announced(world)[0]) > 1, 60, lambda: f"no generation; wishes: {wishes(world)}")
        job.send_signal(signal.SIGTERM)
        said, _ = job.communicate(timeout=30)
        assert job.returncode == 0, said
        assert "has shifted by" in said
    assert measured(worker)["drift_alarm", "event_types"] == 1
    assert measured(worker)["drift_psi", "event_types"] > 0.25
    assert {wish.model_version for wish in wishes(world)} == {first.model_version}
    [_, second, *_], active = announced(world)
    assert (second.parent_version, active) == (first.model_version, first.model_version)
    known = len(announced(world)[0])

    world.command("bootstrap", "run", "--every", "1s", "--rounds", "2")
    made, active = announced(world)
    [third, fourth] = made[known:]
    assert (third.parent_version, fourth.parent_version) == (first.model_version, third.model_version)
    assert active == fourth.model_version
