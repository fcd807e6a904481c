"""The judge's thread: samples in, prequential metrics and drift alarms out, and now and then a wish to retrain.

    batch committed -> offer -> | thread: judge -> tally, detectors -> metrics, alarms -> ask

Nobody waits for it: what it has no time for is left out and counted. It judges at most ``per_second`` events a second
and computes for at most the share ``cpu`` of the time, whatever the number of items.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Literal, cast

import structlog

from schemas.records import Manifest, Retrain
from streamer.settings import Quality as QualitySettings
from streamer.steps.items import Items
from streamer.steps.judge import Judge, Judged
from streamer.steps.sampled import Sampled
from streamer.steps.shifts import FEATURES, Bounds, Shifts
from streamer.steps.tally import Prequential
from streamer.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

_WAITING = 512  # batches
_ASK_AGAIN_SECONDS = 3_600.0
_STOP_SECONDS = 5.0
_FAILURES = 10


class Allowance:
    """How much may be judged now: a number a second, and a share of the time; a second's worth can be saved up."""

    def __init__(self, per_second: float, share: float, clock: Callable[[], float]) -> None:
        self._rates, self._clock = (per_second, share), clock
        self._left, self._at = list(self._rates), clock()

    def grants(self, events: int) -> bool:
        """May so many events be judged?"""
        now = self._clock()
        passed, self._at = now - self._at, now
        self._left = [min(left + passed * rate, rate) for left, rate in zip(self._left, self._rates, strict=True)]
        # More at once than a second's worth is taken on credit.
        return self._left[0] >= min(events, self._rates[0]) and self._left[1] > 0

    def spend(self, events: int, seconds: float) -> None:
        """So many were, and took so long."""
        self._left[0] -= events
        self._left[1] -= seconds


class Quality:
    """See the module docstring. `serve`, `start`, then `offer` from the event loop, then `stop`.

    prequential: what was judged; ask: where wishes go, called in the judge's thread.
    """

    def __init__(
        self, settings: QualitySettings, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.prequential = Prequential(settings.k, settings.window)
        self.ask: Callable[[Retrain], None] | None = None
        self._settings, self._metrics, self._clock = settings, metrics, clock
        self._judges: dict[str, Judge] = {}
        self._shifts: tuple[str, Shifts] | None = None
        self._cut = threading.Lock()
        self._asked: dict[str, float] = {}
        self._alarms: set[str] = set()
        self._allowance = Allowance(settings.per_second, settings.cpu, clock)
        self._queue: queue.Queue[Sampled | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._live, name="quality", daemon=True)

    def serve(self, manifest: Manifest, items: Items) -> None:
        """Judge a generation from now on, beside those there are, and watch it for drift; ratings are not judged."""
        if not _ranked(manifest):
            return
        settings = self._settings
        bounds = Bounds(settings.window, settings.psi_bound, settings.patience, settings.false_alarms)
        if items.trained is None:
            # Lost where a first generation's own topic is gone and the stream has moved its items.
            log.info("frozen_not_judged", model_version=manifest.model_version)
        judge, shifts = Judge(manifest, items), Shifts(manifest, items, bounds)
        with self._cut:
            self.prequential.serve(manifest.model_version)
            self._judges[manifest.model_version] = judge
            self._shifts = (manifest.model_version, shifts)
            self._metrics.forget_judged()
        self._asked.clear()

    def judge_too(self, manifest: Manifest, items: Items) -> None:
        """Judge one more generation, without watching it for drift."""
        if _ranked(manifest):
            self._judges[manifest.model_version] = Judge(manifest, items)

    def retire(self, model_version: str) -> None:
        """Judge a generation no more; what was counted of it stays."""
        self._judges.pop(model_version, None)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End it, at most a few seconds later, whatever waits."""
        if not self._thread.is_alive():
            return
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_STOP_SECONDS / 2)
            self._thread.join(_STOP_SECONDS / 2)

    def offer(self, sampled: Sampled) -> None:
        """Hand over what a committed batch has sampled; never waits."""
        try:
            self._queue.put_nowait(sampled)
        except queue.Full:
            self._skip(sampled)

    def _live(self) -> None:
        failures = 0
        while (sampled := self._queue.get()) is not None:
            try:
                self.take(sampled)
            except Exception:
                # It only measures: the worker goes on, and the number of judged events stands still.
                failures += 1
                log.exception("judging_failed", failures=failures, of_at_most=_FAILURES)
                if failures >= _FAILURES:
                    self._judges.clear()

    def take(self, sampled: Sampled) -> None:
        """Judge a sample, count, and look for drift; what the thread does."""
        judge = self._judges.get(sampled.model_version)
        if judge is None:
            self._skip(sampled)
            return
        shifts = self._shifts[1] if self._shifts and self._shifts[0] == sampled.model_version else None
        if shifts is not None and sampled.types:
            shifts.events(sampled.types, sampled.items)
        self._judge(judge, sampled, shifts)
        # After the judging: an event must not make its own item popular.
        judge.count(sampled.applied)
        if shifts is not None and sampled.types:
            self._report(sampled.model_version, shifts)

    def _judge(self, judge: Judge, sampled: Sampled, shifts: Shifts | None) -> None:
        trials = sampled.trials
        if trials is None or not len(trials):
            return
        if not self._allowance.grants(len(trials)):
            self._skip(sampled)
            return
        started = self._clock()
        judged = judge.judge(trials)
        with self._cut:
            gains = self.prequential.add(sampled.model_version, judged)
            if shifts is not None and self._shifts is not None and self._shifts[1] is shifts:
                self._show(judged)
        self._allowance.spend(len(trials), self._clock() - started)
        if shifts is not None:
            shifts.judged(judged.scores, gains)
        known = int(judged.known.sum())
        self._metrics.count_judged(known, len(trials) - known)
        self._metrics.count_not_comparable(len(trials) - int(judged.comparable.sum()))

    def _show(self, judged: Judged) -> None:
        """Export the averages of the generation that is served."""
        metrics, standing = self._metrics, self.prequential.standing
        metrics.prequential_live_recall.set(standing("live", "all").recall)
        for model in judged.ranks:
            metrics.prequential_recall.labels(model).set(standing(model).recall)
            metrics.prequential_ndcg.labels(model).set(standing(model).ndcg)
            for users in ("known", "new"):
                metrics.prequential_users_recall.labels(model, users).set(standing(model, users).recall)

    def _skip(self, sampled: Sampled) -> None:
        if sampled.trials is not None:
            self._metrics.count_not_judged(len(sampled.trials))

    def _report(self, model_version: str, shifts: Shifts) -> None:
        """Tell of each feature; a new alarm once, in one line."""
        for feature, value, alarm in shifts.states():
            if feature in FEATURES:
                self._metrics.drift_psi.labels(feature).set(value)
            self._metrics.drift_alarm.labels(feature).set(float(alarm))
            if not alarm:
                self._alarms.discard(feature)
                continue
            if feature not in self._alarms:
                self._alarms.add(feature)
                log.warning("drift", feature=feature, value=round(value, 4), model_version=model_version)
            self._ask(model_version, feature, value)

    def _ask(self, model_version: str, feature: str, value: float) -> None:
        """Ask for a new generation: at once, and again each hour that the alarm stands."""
        last = self._asked.get(feature)
        if self.ask is None or (last is not None and self._clock() - last < _ASK_AGAIN_SECONDS):
            return
        self._asked[feature] = self._clock()
        named = cast(Literal["event_types", "item_popularity", "scores", "loss"], feature)
        self.ask(Retrain("retrain", model_version, time.time_ns() // 1_000_000, named, value))


def _ranked(manifest: Manifest) -> bool:
    """Can a generation be judged? Ratings are not ranked: that is said once."""
    if manifest.policy.feedback == "implicit":
        return True
    log.info("not_judged", model_version=manifest.model_version, feedback=manifest.policy.feedback)
    return False
