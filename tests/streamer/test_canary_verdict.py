"""Who says what becomes of a generation that is tried, by what evidence, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaError
from structlog.testing import capture_logs

from streamer import generations
from streamer.commands.models import _check_judged
from streamer.errors import ConfigError
from streamer.generations import Generations
from streamer.settings import load_settings
from streamer.steps.horizon import Horizon

GOOD, BAD = (2_000, 600), (2_000, 200)


class World:
    """One worker that serves m1 and tries m2: what its judge has counted, which partitions it holds, what it sends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, feedback: str = "implicit", **environment: str) -> None:
        self.counted: dict[str, tuple[int, int]] = {}
        self.norms = {"m1": 1.0, "m2": 1.0}
        self.held = {0}
        self.sent: list[tuple[bytes, Any]] = []
        self.quality: object | None = object()
        self.broken = False
        settings = load_settings(None, {f"FACTORS_{name}": value for name, value in environment.items()})
        loader: Any = SimpleNamespace(settings=settings, client={})
        self.generations = Generations(SimpleNamespace(), loader, Horizon(), ["users"], self)  # type: ignore[arg-type]
        self.generations._served, self.generations._trial = serving("m1", feedback), serving("m2", feedback)
        self.groups: Any = [
            SimpleNamespace(role=SimpleNamespace(name="items"), assignments=SimpleNamespace(holds=lambda number: True)),
            SimpleNamespace(role=SimpleNamespace(name="users"), assignments=self),
        ]

        async def send(topic: str, records: Sequence[tuple[bytes, Any]], client: object) -> None:
            if self.broken:
                raise KafkaError("away")
            assert topic == settings.topic("control")
            self.sent += records

        monkeypatch.setattr(generations, "send_commands", send)

    def judged(self) -> dict[str, tuple[int, int]]:
        return self.counted

    def judged_norm(self, model_version: str) -> float:
        return self.norms[model_version]

    def holds(self, number: int) -> bool:
        return number in self.held

    def look(self) -> str | None:
        """What the worker says to be done with the trial when it looks again."""
        self.sent.clear()
        asyncio.run(self.generations._judge(self.groups))
        if not self.sent:
            return None
        return "promote" if b"active" in dict(self.sent) else "abandon"


def serving(version: str, feedback: str) -> Any:
    """A generation as far as its verdict goes."""
    manifest = SimpleNamespace(model_version=version, policy=SimpleNamespace(feedback=feedback))
    active = SimpleNamespace(manifest=manifest, item_topic=f"factors.item-factors.{version}")
    return SimpleNamespace(version=version, generation=int(version[1:]), active=active)


@pytest.mark.parametrize(("served", "trial", "expected"), [(BAD, GOOD, "promote"), (GOOD, BAD, "abandon")])
def test_the_trial_is_held_against_what_is_served(
    monkeypatch: pytest.MonkeyPatch, served: tuple[int, int], trial: tuple[int, int], expected: str
) -> None:
    """And not the other way round."""
    world = World(monkeypatch)
    world.counted = {"m1": served, "m2": trial}
    assert world.look() == expected


def test_only_what_was_judged_since_the_trial_began_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What either had before is no evidence of now: neither for its recall nor for there being enough."""
    world = World(monkeypatch)
    world.generations._before = {"m1": (9_000, 0), "m2": (9_000, 9_000)}
    world.counted = {"m1": (9_900, 300), "m2": (9_900, 9_010)}
    assert world.look() is None
    world.counted = {"m1": (11_000, 600), "m2": (11_000, 9_020)}
    assert world.look() == "abandon"


def test_only_the_worker_with_the_users_first_partition_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others, which know as much, keep still; so does one that holds only items."""
    world = World(monkeypatch)
    world.counted = {"m1": BAD, "m2": GOOD}
    world.held = {1, 2}
    assert world.look() is None
    world.held = {0}
    assert world.look() == "promote"


def test_without_auto_nothing_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """However clear it is."""
    world = World(monkeypatch, CANARY__AUTO="false")
    world.counted = {"m1": BAD, "m2": GOOD}
    assert world.look() is None


def test_it_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the control topic comes back with it the trial is still there; where the broker was away, again."""
    world = World(monkeypatch)
    world.counted = {"m1": BAD, "m2": GOOD}
    world.broken = True
    assert world.look() is None
    world.broken = False
    assert world.look() == "promote"
    assert world.look() is None


def test_the_bounds_are_those_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events, margin and norms."""
    counted = {"m1": (500, 100), "m2": (500, 60)}
    verdicts = []
    for environment in (
        {},
        {"CANARY__MIN_EVENTS": "500"},
        {"CANARY__MIN_EVENTS": "500", "CANARY__MARGIN": "0.5"},
        {"CANARY__MIN_EVENTS": "500", "CANARY__MARGIN": "0.5", "CANARY__MAX_NORM_RATIO": "1.1"},
    ):
        world = World(monkeypatch, **environment)
        world.counted, world.norms = counted, {"m1": 1.0, "m2": 1.5}
        verdicts.append(world.look())
    assert verdicts == [None, "abandon", "promote", "abandon"]


@pytest.mark.parametrize(
    ("feedback", "sample", "auto", "problem"),
    [
        ("implicit", 0.01, True, ""),
        ("implicit", 0.0, True, "quality.sample = 0"),
        ("explicit", 0.01, True, "m1 is of explicit feedback"),
        ("implicit", 0.0, False, ""),
        ("explicit", 0.01, False, ""),
    ],
)
def test_the_command_refuses_a_trial_that_nobody_can_judge(
    feedback: str, sample: float, auto: bool, problem: str
) -> None:
    """Where the configuration leaves the verdict to the workers; with what to do."""
    settings = load_settings(None, {"FACTORS_QUALITY__SAMPLE": str(sample), "FACTORS_CANARY__AUTO": str(auto).lower()})
    active = serving("m1", feedback).active.manifest
    if not problem:
        _check_judged(settings, active)
        return
    with pytest.raises(ConfigError, match=problem) as found:
        _check_judged(settings, active)
    assert "canary.auto = false" in str(found.value)
    assert found.value.exit_code == 2


@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_a_trial_that_nobody_can_judge_is_told_once(monkeypatch: pytest.MonkeyPatch, feedback: str) -> None:
    """No sample, or ratings: it would go on for ever without a word."""
    world = World(monkeypatch, feedback=feedback)
    if feedback == "implicit":
        world.quality = None
    with capture_logs() as lines:
        assert world.look() is None
        assert world.look() is None
    assert [(line["event"], line["model_version"]) for line in lines] == [("canary_without_judge", "m2")]
    assert "models canary --end" in lines[0]["hint"]
