"""Which generation is served: the active command in `factors.control` and its manifest in `factors.models`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from schemas.records import Control, Manifest
from streamer.engine.follow import Follower

log = structlog.get_logger(__name__)

ACTIVE_KEY = b"active"
_MANIFEST = msgspec.json.Decoder(Manifest)
_CONTROL = msgspec.json.Decoder(Control)


@dataclass(frozen=True, slots=True)
class ActiveModel:
    """The generation to serve and the topic that holds its item vectors."""

    manifest: Manifest
    item_topic: str


class Models:
    """Follows both topics; `active` waits until a generation is announced and its manifest is there."""

    def __init__(self, models_topic: str, control_topic: str, options: Mapping[str, Any]) -> None:
        self._manifests: dict[str, Manifest] = {}
        self._command: Control | None = None
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

    def now(self) -> ActiveModel | None:
        """The generation that the newest command activates, None where there is none or its manifest is missing."""
        command = self._command
        manifest = self._manifests.get(command.model_version) if command else None
        return ActiveModel(manifest, command.item_topic) if command and manifest else None

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
            if record.key != ACTIVE_KEY:
                continue
            try:
                self._command = _CONTROL.decode(record.value) if record.value is not None else None
            except (msgspec.DecodeError, ValueError) as problem:
                log.error("command_refused", offset=record.offset, problem=str(problem))
        self._changed.set()
