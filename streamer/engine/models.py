"""Which generation is served: the active command in `factors.control` and its manifest in `factors.models`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from schemas.commands import ACTIVATION_KEY, ACTIVE_KEY, CANARY_KEY
from schemas.records import Control, Manifest
from streamer.engine.follow import Follower
from streamer.events.activation import number_of
from streamer.events.hashes import generation_id

log = structlog.get_logger(__name__)

_MANIFEST = msgspec.json.Decoder(Manifest)
_CONTROL = msgspec.json.Decoder(Control)


@dataclass(frozen=True, slots=True)
class ActiveModel:
    """The generation to serve, the topic that holds its item vectors, and what rows and signals are stamped with.

    at: when that was commanded, ms; fraction: of the users, below 1 for one that is tried.
    """

    manifest: Manifest
    item_topic: str
    generation: int
    at: int
    fraction: float = 1.0


class Models:
    """Follows both topics; `active` waits until a generation is announced and its manifest is there."""

    def __init__(self, models_topic: str, control_topic: str, options: Mapping[str, Any]) -> None:
        self._manifests: dict[str, Manifest] = {}
        self._command: Control | None = None
        self._canary: Control | None = None
        self._activations: dict[int, Control] = {}
        self._changed = asyncio.Event()
        self.followers = [
            Follower(models_topic, options, self._on_models),
            Follower(control_topic, options, self._on_control),
        ]

    async def start(self) -> None:
        """Read both topics to their present ends, then follow.

        Raises:
            LookupError: a topic does not exist.
        """
        for follower in self.followers:
            await follower.start()

    async def stop(self) -> None:
        """Stop following."""
        for follower in self.followers:
            await follower.stop()

    async def to_end(self) -> None:
        """Return when everything that was announced by now is known."""
        for follower in self.followers:
            await follower.to_end()

    def now(self) -> ActiveModel | None:
        """The generation that the newest command activates, None where there is none or its manifest is missing."""
        return self._model(self._command)

    def trial(self) -> ActiveModel | None:
        """The generation that is tried on some users beside the active one, None where there is none."""
        if self._canary is None or (self._command and self._canary.model_version == self._command.model_version):
            return None
        return self._model(self._canary)

    def before(self, model: ActiveModel, common_topic: str) -> list[ActiveModel]:
        """What was served before it, newest first; ``common_topic``: where the item vectors of the first one lie."""
        activations = [one for one in self._activations.values() if one.command == "activate" and one.at < model.at]
        found = [self._model(one) for one in sorted(activations, key=lambda one: one.at, reverse=True)]
        first = [
            ActiveModel(manifest, common_topic, generation_id(version), 0)
            for version, manifest in self._manifests.items()
            if manifest.parent_version is None and version != model.manifest.model_version
        ]
        return [one for one in found if one is not None] + first

    def _model(self, command: Control | None) -> ActiveModel | None:
        manifest = self._manifests.get(command.model_version) if command else None
        if command is None or manifest is None:
            return None
        fraction = 1.0 if command.fraction is None else command.fraction
        return ActiveModel(manifest, command.item_topic, number_of(command), command.at, fraction)

    def tried_since(self, at: int) -> dict[int, int]:
        """What was tried since a time (ms): the number of each trial, and when it began."""
        tried = (one for one in self._activations.values() if one.command == "canary" and one.at >= at)
        return {number_of(command): command.at for command in tried}

    def generations(self) -> dict[int, Manifest]:
        """What every generation that rows and signals may be stamped with was made of."""
        known = {generation_id(version): manifest for version, manifest in self._manifests.items()}
        for number, command in self._activations.items():
            if command.model_version in self._manifests:
                known[number] = self._manifests[command.model_version]
        return known

    async def changed(self) -> None:
        """Wait for the next record of either topic."""
        self._changed.clear()
        await self._changed.wait()

    def _on_models(self, partition: int, records: Sequence[Any], position: int) -> None:
        for record in records:
            version = (record.key or b"").decode("utf-8", "replace")
            if record.value is None:
                self._manifests.pop(version, None)
                continue
            try:
                self._manifests[version] = _MANIFEST.decode(record.value)
            except (msgspec.DecodeError, ValueError) as problem:
                log.error("manifest_refused", model_version=version, offset=record.offset, problem=str(problem))
        self._changed.set()

    def _on_control(self, partition: int, records: Sequence[Any], position: int) -> None:
        for record in records:
            key = record.key or b""
            if key not in (ACTIVE_KEY, CANARY_KEY) and not key.startswith(ACTIVATION_KEY):
                continue
            try:
                command = _CONTROL.decode(record.value) if record.value is not None else None
            except (msgspec.DecodeError, ValueError) as problem:
                log.error("command_refused", offset=record.offset, problem=str(problem))
                continue
            if key == ACTIVE_KEY:
                self._command = command
            elif key == CANARY_KEY:
                self._canary = command
            elif command is not None:
                self._activations[number_of(command)] = command
        self._changed.set()
