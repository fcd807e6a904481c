"""What the engine reports, turned into metrics and health; a batch costs a few numpy calls, never a loop of its own."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import structlog

from schemas.outcomes import Outcome, Reason
from schemas.records import Manifest
from streamer.settings import Settings
from streamer.steps.effects import Effects
from streamer.steps.items import Items
from streamer.telemetry.health import Health
from streamer.telemetry.http import start_http
from streamer.telemetry.metrics import RESULTS, Metrics
from streamer.telemetry.quality import Quality

log = structlog.get_logger(__name__)

_TICK_SECONDS = 0.5
_LOOK_BACK_SECONDS = 60.0
_FEW_EVENTS = 100
_WITHOUT_EFFECT = frozenset({Outcome.LATE, Outcome.FILTERED, Outcome.DEAD_LETTER})
_KINDS = {"users": "user", "items": "item"}

Lags = Callable[[], Iterable[tuple[str, int, int]]]
"""(topic, partition, records that wait) of every partition held now."""


class Telemetry:
    """The engine's `Observer`, with the port that shows it."""

    def __init__(self, settings: Settings, roles: Sequence[str], metrics: Metrics | None = None) -> None:
        self.metrics = Metrics() if metrics is None else metrics
        self.health = Health(roles)
        self.port = 0
        self._http, self._servers = settings.http, settings.kafka.bootstrap_servers
        judges = "users" in roles and settings.quality.sample > 0
        self.quality = Quality(settings.quality, self.metrics) if judges else None
        self._items: Items | None = None
        self._replica_lag: Callable[[], int] = lambda: 0
        self._lags: list[Lags] = []
        self._rows: list[Callable[[], int]] = []
        self._held: set[tuple[str, int]] = set()
        self._unsettled: set[tuple[str, int]] = set()
        self._ended: Counter[tuple[Outcome, Reason | None]] = Counter()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answer on the port, and look at the slow figures every half second."""
        server = await start_http(self._http.host, self._http.port, self.metrics, self.health)
        self.port = server.port
        ticking = asyncio.create_task(self._tick(), name="telemetry")
        if self.quality is not None:
            self.quality.start()
        try:
            yield
        finally:
            if self.quality is not None:
                self.quality.stop()
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
            await server.stop()

    # --- start and stop -----------------------------------------------------------------------------------------

    def waiting(self, reason: str) -> None:
        """Not ready as a whole."""
        self.health.wait(reason)

    def loading_items(self, share: float) -> None:
        """The item vectors are being read; share done, 0 to 1."""
        self.health.wait("loading item vectors", round(100 * share, 1))

    def model(self, manifest: Manifest, items: Items, replica_lag: Callable[[], int]) -> None:
        """The generation that is served from now on."""
        self._items, self._replica_lag = items, replica_lag
        self.metrics.set_model(manifest.model_version)
        self.metrics.model_traffic_ratio.clear()
        self.metrics.model_traffic_ratio.labels(manifest.model_version).set(1.0)
        if manifest.alignment is not None:
            self.metrics.alignment_residual.set(manifest.alignment.residual)
        self.health.model(manifest.model_version)
        if self.quality is not None:
            self.quality.serve(manifest, items)

    def tries(self, serving: str, manifest: Manifest | None, items: Items | None, fraction: float) -> None:
        """A generation is tried on some users from now on; without one everybody is served alike again."""
        ratio = self.metrics.model_traffic_ratio
        ratio.clear()
        ratio.labels(serving).set(1.0 - fraction)
        if manifest is not None and items is not None:
            ratio.labels(manifest.model_version).set(fraction)
            if self.quality is not None:
                self.quality.judge_too(manifest, items)

    def judged(self) -> dict[str, tuple[int, int]]:
        """By model version: events judged, and how many the live factors foretold."""
        return {} if self.quality is None else self.quality.prequential.report()

    def judged_norm(self, model_version: str) -> float:
        """The mean norm of the user vectors that were judged."""
        return float("nan") if self.quality is None else self.quality.prequential.norm(model_version)

    def left(self, model_version: str) -> None:
        """No partition serves this generation any more."""
        if self.quality is not None:
            self.quality.retire(model_version)

    def refused(self, model_version: str) -> None:
        """A generation was announced that can't be served."""
        self.metrics.generations_refused.inc()
        self.health.refuse(model_version)

    def watch(self, lags: Lags, rows: Callable[[], int]) -> None:
        """Ask a role for its lag and its rows from now on."""
        self._lags.append(lags)
        self._rows.append(rows)

    def broker(self, away: float | None) -> None:
        """Since when (seconds since 1970) no broker answers; None when one does."""
        since = "" if away is None else datetime.fromtimestamp(away, UTC).isoformat(timespec="seconds")
        self.health.broker(since and f"no broker answers at {self._servers} since {since}")

    def stopping(self) -> None:
        """Nothing more is taken."""
        self.health.wait("stopping")

    # --- the engine's reports -----------------------------------------------------------------------------------

    def state(self, role: str, partition: int, state: str, share: float = 0.0) -> None:
        """One partition's state."""
        self.health.partition(role, partition, state, share)
        if state == "released":
            self.settled(role, partition, settled=True)

    def rebuilt(self, reason: str) -> None:
        """A store comes back from the changelog."""
        self.metrics.count_rebuild(reason)

    def transaction(self, role: str, result: str) -> None:
        """How a transaction ended."""
        assert result in RESULTS
        self.metrics.count_transaction(result)

    def renewed(self, role: str, rows: int) -> None:
        """Rows were brought into the generation that is served."""
        self.metrics.rows_renewed.labels(_KINDS[role]).inc(rows)

    def settled(self, role: str, partition: int, *, settled: bool) -> None:
        """Are all rows of a partition of the generation that it is at?"""
        (self._unsettled.discard if settled else self._unsettled.add)((role, partition))
        self.metrics.partitions_renewing.set(len(self._unsettled))

    def batch(self, role: str, records: list[Any], effects: Effects, seconds: Mapping[str, float]) -> None:
        """A batch is committed and stored."""
        metrics, facts = self.metrics, effects.facts
        metrics.observe_batch(len(records), seconds)
        if effects.norms is not None:
            metrics.observe_norms(_KINDS[role], effects.norms)
        if facts.get("nonfinite"):
            metrics.count_nonfinite(facts["nonfinite"])
        if role == "items":
            if "item_update_norm" in facts:
                metrics.item_update_norm.set(facts["item_update_norm"])
            metrics.count_new_items(facts.get("items_folded", 0.0), facts.get("signals_capped", 0.0))
            return
        metrics.count_outcomes(effects.outcomes)
        self._ended.update(effects.outcomes)
        received = np.fromiter((record.timestamp for record in records), np.float64, len(records))
        ages = time.time() - received / 1000.0
        metrics.observe_latency(ages)
        metrics.freshness.set(float(ages.min()))
        self._users(facts)
        if self.quality is not None:
            for sampled in effects.sampled:
                self.quality.offer(sampled)

    def _users(self, facts: Mapping[str, float]) -> None:
        metrics = self.metrics
        if "solve_residual" in facts:
            metrics.solve_residual.set(facts["solve_residual"])
        if "parity_error" in facts:
            metrics.observe_parity(facts["parity_error"])
        if events := facts.get("signals"):
            metrics.observe_unknown_items(facts["unknown_items"], events)
            metrics.top_item_share.set(facts["top_item"] / events)
        if users := facts.get("users"):
            metrics.observe_cold_starts(facts["cold_start"], users)
            metrics.vector_coverage.labels("user").set(1.0 - facts["cold_start"] / users)
            if self._items is not None and self._items.space.size:
                metrics.matrix_density.set(facts["matrix_entries"] / users / self._items.space.size)

    # --- what nobody reports ------------------------------------------------------------------------------------

    def _warn_of_waste(self) -> None:
        """Say so when most events of the last minute had no effect: a feed that comes late, or a filter set wrong."""
        ended, self._ended = self._ended, Counter()
        total = ended.total()
        without = Counter({end: count for end, count in ended.items() if end[0] in _WITHOUT_EFFECT})
        if total >= _FEW_EVENTS and without.total() > total / 2:
            listed = {reason or outcome: count for (outcome, reason), count in without.most_common()}
            log.warning("most_events_without_effect", events=total, **listed)

    async def _tick(self) -> None:
        looked = time.monotonic()
        while True:
            self.health.tick()
            if time.monotonic() - looked > _LOOK_BACK_SECONDS:
                looked = time.monotonic()
                self._warn_of_waste()
            held = set()
            for lags in self._lags:
                for topic, partition, records in lags():
                    held.add((topic, partition))
                    self.metrics.set_lag(topic, partition, records)
            for topic, partition in self._held - held:
                self.metrics.forget_lag(topic, partition)
            self._held = held
            self.metrics.restore_progress.set(self.health.restored())
            self.metrics.store_rows.set(sum(rows() for rows in self._rows))
            self.metrics.items_replica_lag.set(self._replica_lag())
            if self._items is not None:
                self.metrics.vector_coverage.labels("item").set(self._items.coverage())
                self.metrics.gramian_drift.set(self._items.drift)
            await asyncio.sleep(_TICK_SECONDS)
