"""What the two topics of generations say: what is served, what is tried, and what was tried since."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas.records import Policy
from streamer.engine import models as following
from streamer.engine.models import Models
from streamer.events.activation import Records, activation, canary, end_of_canary
from tests.streamer.steps.world import FakeRecord, manifest


@pytest.fixture(autouse=True)
def _without_a_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the followers would hand over, the tests do."""
    nobody: Any = None
    monkeypatch.setattr(following, "Follower", lambda *_: nobody)


def models(*versions: str) -> Models:
    made = Models("t.models", "t.control", {})
    records = [msgspec.json.encode(manifest(Policy(), model_version=version)) for version in versions]
    made._on_models(0, [FakeRecord(name.encode(), value, 0) for name, value in zip(versions, records, strict=True)], 1)
    return made


def command(made: Models, records: Records) -> None:
    made._on_control(0, [FakeRecord(key, value, at) for at, (key, value) in enumerate(records)], len(records))


def test_only_what_was_tried_since_counts() -> None:
    """Items of what is served heard of earlier trials' users when it took over; activations are no trials."""
    made = models("m1", "m2", "m3")
    command(made, canary("m2", 1_000, "t.m2", 0.1))
    command(made, end_of_canary())
    command(made, activation("m3", 2_000, "t.m3", "t.items"))
    command(made, canary("m2", 2_000, "t.m2", 0.1))
    command(made, canary("m1", 3_000, "t.m1", 0.1))
    assert sorted(made.tried_since(0).values()) == [1_000, 2_000, 3_000]
    assert sorted(made.tried_since(2_000).values()) == [2_000, 3_000]
    assert made.tried_since(3_001) == {}
    assert made.tried_since(2_000).keys() < made.generations().keys()


def test_what_serves_everybody_is_tried_on_nobody() -> None:
    """Between a promotion's command and the end of its trial, and where somebody tries what is served anyway."""
    made = models("m1", "m2")
    command(made, activation("m1", 1_000, "t.m1", "t.items"))
    command(made, canary("m2", 2_000, "t.m2", 0.25))
    trial = made.trial()
    assert trial is not None
    assert (trial.manifest.model_version, trial.fraction) == ("m2", 0.25)
    command(made, activation("m2", 3_000, "t.m2", "t.items"))
    assert made.trial() is None
    now = made.now()
    assert now is not None
    assert now.generation != trial.generation
