"""Explicit feedback on a real broker: a generation is bootstrapped, ratings are streamed, records foretell better."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import orjson
import pytest

from bootstrap.job import Lineage, make
from bootstrap.publish import publish
from bootstrap.served import check
from schemas.records import Policy
from streamer.commands.cluster import producing
from streamer.errors import CheckFailed
from streamer.reader import Factor, FactorReader
from streamer.settings import load_settings
from tests.bootstrap.planted import EXPLICIT, ITEMS, USERS, planted, rated, truth
from tests.bootstrap.small import KEY, Reading, quiet
from tests.chaos.processes import WorkerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from schemas.records import Manifest
    from streamer.settings import Settings
    from tests.streamer.commands.calls import Commands

pytestmark = pytest.mark.integration

WAIT_SECONDS = 120.0
STREAMED = range(30)  # the newcomer's ratings; the others are foretold


def bootstrapped(environment: dict[str, str], folder: Path) -> Manifest:
    """A generation of all users but the last one, published and active."""
    more = {"FACTORS_BOOTSTRAP__ITERATIONS": "15", "FACTORS_BOOTSTRAP__ARTIFACTS": str(folder)}
    settings = load_settings(None, {**environment, **EXPLICIT, **more})
    now_ms = time.time_ns() // 1_000_000
    log = Reading(folder)(*planted(now_ms, users=USERS - 1), policy=settings.policy)
    manifest, model = make(settings, log, Lineage(KEY, None), now_ms=now_ms, show=quiet)
    publish(settings, manifest, model, activate=True, now_ms=now_ms)
    return manifest


def until(reader: FactorReader, entity: str, events: int) -> Factor:
    """The first revision of an id with so many events in it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        for factor in reader.follow(idle_seconds=0.5):
            if factor.id == entity and factor.events >= events:
                return factor
    raise TimeoutError(f"{entity} never had {events} events")


def error(user: np.ndarray, items: dict[str, Factor], mean: float, chosen: range) -> float:
    """Root of the mean squared error over the last user's planted ratings of some items. user: (k + 1,)."""
    rating, total = truth()[USERS - 1], 0.0
    for item in chosen:
        row = items[f"i{item}"].row.astype(np.float64)
        total += (rating[item] - mean - user[-1] - row[-1] - float(user[:-1] @ row[:-1])) ** 2
    return float(np.sqrt(total / len(chosen)))


def audited(connected: Commands, settings: Settings) -> float:
    """The largest error of a user who was solved after the last item had moved.

    A rating of an item that no model knows moves none: it is sent until the worker has read all that moved before.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        with producing(settings) as producer:
            body = rated(USERS - 1, ITEMS, 3.0, time.time_ns() // 1_000_000)
            producer.send(settings.topic("interactions"), body["user_id"].encode(), orjson.dumps(body))
        time.sleep(0.5)
        told = connected("audit", "--json")
        if told.code == 0 and told.json()["status"] == "exact":
            return float(told.json()["largest_error"])
    raise TimeoutError(told.err)


def swapped(
    connected: Commands, settings: Settings, environment: dict[str, str], folder: Path, parent: Manifest
) -> None:
    """Publish a second generation of another dimension: every user and item comes over to it, biases and all."""
    more = {**EXPLICIT, "FACTORS_BOOTSTRAP__DIMENSION": "2", "FACTORS_BOOTSTRAP__ARTIFACTS": str(folder)}
    now_ms = time.time_ns() // 1_000_000
    mine = load_settings(None, {**environment, **more})
    log = Reading(folder)(*planted(now_ms, users=USERS - 1), policy=mine.policy)
    manifest, model = make(mine, log, Lineage(KEY, parent.model_version), now_ms=now_ms, show=quiet)
    publish(mine, manifest, model, activate=True, now_ms=now_ms)
    servers, prefix = settings.kafka.bootstrap_servers, settings.kafka.prefix
    for kind in ("user", "item"):
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            with FactorReader(servers, prefix, kind) as reader:
                factors = list(reader.snapshot().values())
            if all(one.model_version == manifest.model_version for one in factors):
                break
            assert time.monotonic() < deadline, f"a {kind} is not of the new generation"
            time.sleep(0.2)
        assert {(len(one.row), one.bias is None) for one in factors} == {(3, False)}
    assert audited(connected, settings) <= 1e-5


def test_ratings_are_learned_from_the_stream(
    connected: Commands, settings: Settings, environment: dict[str, str], tmp_path: Path
) -> None:
    """The worker's own configuration says nothing of ratings: it follows the manifest."""
    manifest = bootstrapped(environment, tmp_path)
    mean = manifest.global_mean
    assert mean is not None
    servers, prefix = settings.kafka.bootstrap_servers, settings.kafka.prefix
    mine = {**environment, "FACTORS_STATE__DIR": str(tmp_path / "state"), "FACTORS_LOG__FORMAT": "json"}
    mine["FACTORS_ENGINE__APP_ID"] = f"{prefix.rstrip('.')}-app"
    with FactorReader(servers, prefix, "item") as reader:
        before = reader.snapshot()
    assert all(factor.bias is not None for factor in before.values())
    worker = WorkerProcess("explicit", tmp_path, mine, (), "all", None)
    try:
        with (
            closing(FactorReader(servers, prefix, "user")) as users,
            closing(FactorReader(servers, prefix, "item")) as items,
        ):
            assert len(users.snapshot()) == USERS - 1
            items.snapshot()
            at = time.time_ns() // 1_000_000 - 60_000
            with producing(settings) as producer:
                for item in STREAMED:
                    # A first rating that is corrected at once: only the second counts.
                    for turn, value in enumerate((6.5 - truth()[USERS - 1, item], truth()[USERS - 1, item])):
                        body = rated(USERS - 1, item, float(value), at + 2 * item + turn)
                        producer.send(settings.topic("interactions"), body["user_id"].encode(), orjson.dumps(body))
            factor = until(users, f"u{USERS - 1}", 2 * len(STREAMED))
            moved = until(items, "i0", 1)
        assert len(factor.row) == manifest.dimension + 1 == manifest.width
        unseen = range(len(STREAMED), ITEMS)
        average = np.array(manifest.average_row)
        assert error(factor.row, before, mean, unseen) < 0.5 * error(average, before, mean, unseen)
        assert moved.bias is not None
        assert moved.bias != before["i0"].bias
        assert len(moved.row) == manifest.width
        assert audited(connected, settings) <= 1e-5
        other = msgspec.structs.replace(
            manifest, model_version="other", average_bias=None, global_mean=None, policy=Policy()
        )
        with pytest.raises(CheckFailed, match="another kafka"):
            check(settings, other)
        with producing(settings) as producer:
            producer.send(settings.topic("models"), b"other", msgspec.json.encode(other))
        refused = connected("models", "activate", "other")
        assert refused.code != 0
        assert "of implicit feedback" in refused.err
        why = connected("explain", "user", f"u{USERS - 1}", "--json").json()
        assert len([entry for entry in why["history"] if entry["item_id"]]) == len(STREAMED)
        assert why["stored_vector_differs_by"] <= 1e-5
        swapped(connected, settings, environment, tmp_path, manifest)
    finally:
        code = worker.stop()
    assert code == 0, worker.log.read_text()[-2_000:]
    told = worker.log.read_text()
    assert "item_factor_refused" not in told
    assert "generation_refused" not in told
    assert told.count('"not_judged"') == 2  # once a generation
