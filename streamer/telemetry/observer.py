"""What the engine reports, turned into metrics and health; the engine's `Observer`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import numpy as np
import structlog

from schemas.records import Manifest
from streamer.settings import Settings
from streamer.steps.effects import Effects
from streamer.steps.items import Items
from streamer.telemetry.health import Health
from streamer.telemetry.http import Server, start_http
from streamer.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

_TICK_SECONDS = 1.0
_KIND_OF_ROLE = {"users": "user", "items": "item"}


class Lagging(Protocol):
    """Something that reads a topic and knows how far behind it is."""

    @property
    def lag(self) -> int:
        """Records not yet taken in."""


class Telemetry:
    """Metrics, health and the HTTP port of one worker.

    Args:
        settings: where to listen.
        roles: the worker's roles, "users" and "items".
        metrics: for a registry of one's own.
        clock: seconds since 1970, to be compared with the broker's timestamps.
    """

    def __init__(
        self,
        settings: Settings,
        roles: Sequence[str],
        *,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._http, self._clock = settings.http, clock
        self.metrics = Metrics() if metrics is None else metrics
        self.health = Health(roles)
        self.server: Server | None = None
        self._follower: Lagging | None = None
        self._items: Items | None = None

    # --- the worker's life ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listen, and keep the loop's pulse, until the block ends.

        Raises:
            ConfigError: the address cannot be had.
        """
        self.server = await start_http(self._http.host, self._http.port, self.metrics, self.health)
        pulse = asyncio.create_task(self._beat(), name="pulse")
        try:
            yield
        finally:
            pulse.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pulse
            await self.server.stop()

    def waiting(self, why: str) -> None:
        """Not ready, and why; an operator reads it."""
        self.health.wait(why)

    def loading_items(self, share: float) -> None:
        """The share of the item vectors that is loaded, 0 to 1."""
        self.health.wait("loading item vectors", round(100.0 * share, 1))

    def model(self, manifest: Manifest, items: Items, follower: Lagging) -> None:
        """The generation served from now on, its items, and who keeps them up to date."""
        self._items, self._follower = items, follower
        self.metrics.set_model(manifest.model_version)
        self.health.model(manifest.model_version)

    def stopping(self) -> None:
        """No longer ready: a signal, or something that cannot go on."""
        self.health.wait("stopping")

    # --- what the engine reports ----------------------------------------------------------------------------

    def state(self, role: str, partition: int, state: str, share: float = 0.0) -> None:
        """waiting, fencing, restoring (with the share done), ready, paused or released."""
        self.health.partition(role, partition, state, share)
        self.metrics.restore_progress.set(self.health.restored())

    def rebuilt(self, reason: str) -> None:
        """A store was wiped or set aside and comes back from the changelog."""
        self.metrics.count_rebuild(reason)

    def transaction(self, role: str, result: str) -> None:
        """committed, aborted or fenced."""
        self.metrics.count_transaction(result)

    def lag(self, topic: str, partition: int, records: int) -> None:
        """Records of a source partition that wait to be processed."""
        self.metrics.set_lag(topic, partition, records)

    def batch(
        self, role: str, records: Sequence[Any], effects: Effects, seconds: Mapping[str, float]
    ) -> None:
        """A batch is committed and stored; seconds by stage."""
        metrics = self.metrics
        metrics.observe_batch(len(records), seconds)
        metrics.count_outcomes(effects.outcomes)
        if effects.norms is not None:
            metrics.observe_norms(_KIND_OF_ROLE[role], effects.norms)
        if role == "users" and records:
            sent = np.fromiter((record.timestamp for record in records), np.float64, len(records))
            age = np.maximum(self._clock() - sent / 1000.0, 0.0)
            metrics.observe_latency(age)
            metrics.freshness.set(float(age.min()))
        self._facts(effects.facts)

    def _facts(self, facts: Mapping[str, float]) -> None:
        metrics = self.metrics
        if nonfinite := facts.get("nonfinite"):
            metrics.count_nonfinite(nonfinite)
        if "solve_residual" in facts:
            metrics.solve_residual.set(facts["solve_residual"])
        if "item_update_norm" in facts:
            metrics.item_update_norm.set(facts["item_update_norm"])
        if "unknown_items" in facts:
            metrics.observe_unknown_items(facts["unknown_items"], facts["signals"])
        if users := facts.get("users"):
            metrics.observe_cold_starts(facts.get("cold_start", 0.0), users)
            if self._items is not None and self._items.space.size:
                density = facts.get("matrix_entries", 0.0) / (users * self._items.space.size)
                metrics.matrix_density.set(density)

    async def _beat(self) -> None:
        while True:
            self.health.tick()
            if self._follower is not None:
                self.metrics.items_replica_lag.set(self._follower.lag)
            await asyncio.sleep(_TICK_SECONDS)
