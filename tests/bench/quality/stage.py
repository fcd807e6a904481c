"""A model trained on the first half and served by one worker of both roles, all by the product's own commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bootstrap.artifact import open_artifact
from bootstrap.model import Model
from ops.data import Dataset, write_ndjson
from ops.demo.world import World, wait_ready
from schemas.records import POSITIVES, Manifest
from streamer.configuration import CONFIG_VARIABLE
from streamer.settings import Settings, load_settings

Event = dict[str, Any]


@dataclass(slots=True)
class Stage(World):
    """Topics below a prefix; ``changes`` are environment variables over the demo's, which has wide bounds in time."""

    changes: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Any model may be served: what it is worth is what is measured here."""
        gates = {"FACTORS_GATES__RECALL_OVER_POPULARITY": "0", "FACTORS_GATES__MIN_ITEMS": "1"}
        return World.environment(self) | gates | self.changes

    def settings(self) -> Settings:
        """What every process of the stage is told."""
        told = {name: value for name, value in self.environment().items() if name.startswith("FACTORS_")}
        config = told.pop(CONFIG_VARIABLE, None)
        return load_settings(None if config is None else Path(config), told)

    def serve(self, before: Sequence[Event]) -> tuple[Manifest, Model]:
        """Train on the events, publish, and start the worker; returns what is served, as the artifact has it."""
        file = self.folder / "before.ndjson"
        write_ndjson(file, before)
        self.command("streamer", "topics", "create")
        self.command("bootstrap", "run", "--events", str(file))
        (artifact,) = (self.folder / "artifacts").glob("*/manifest.json")
        wait_ready(self.start_worker("all"))
        return open_artifact(str(artifact.parent))


def halves(data: Dataset, now_ms: int, limit: int | None) -> tuple[Sequence[Event], Sequence[Event]]:
    """The positive events before and after the middle, the newest a moment ago; ``limit``: of the second half."""
    liked = tuple(event for event in data.rebase(now_ms).events if event["event_type"] in POSITIVES)
    before, after = replace(data, events=liked).split(0.5)
    return before, after[:limit]


def variables(changes: Mapping[str, str]) -> dict[str, str]:
    """``policy.sgd_rate`` -> ``FACTORS_POLICY__SGD_RATE``."""
    return {f"FACTORS_{name.replace('.', '__').upper()}": value for name, value in changes.items()}
