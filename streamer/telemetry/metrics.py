"""Every metric of the worker, declared in one place; no label ever holds a user, item or request id.

Methods take a batch at a time, so that counting costs the hot path next to nothing. A gauge that nothing
has measured yet is NaN, never a zero that looks like a measurement. `ops/` has the alerts and dashboards
that read them.
"""

import math
import platform
from collections import deque
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest

from schemas.outcomes import OUTCOME_OF_REASON, Outcome, Reason
from streamer.telemetry.histogram import BatchHistogram

# One `_created` series for each counter would double the scrape and say nothing that `up` does not.
disable_created_metrics()  # type: ignore[no-untyped-call]

_LATENCY_BOUNDS = (
    *(0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.08),
    *(0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0),
)
_STAGE_BOUNDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_BATCH_BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)
_NORM_BOUNDS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1_000.0)

STAGES = ("wait", "read", "get", "apply", "commit", "store")
"""The stages of a batch, in order; wait: for the maths thread."""
RESULTS = ("committed", "aborted", "fenced")
KINDS = ("user", "item")

# Ratios look back over about this many of what they count.
_MEMORY = 20_000
_PARITY_CHECKS = 240  # a minute of them at four a second


class RecentRatio:
    """The share of hits among the most recent tries, older ones fading; NaN before the first try."""

    def __init__(self) -> None:
        self._hits = self._tries = 0.0

    def add(self, hits: float, tries: float) -> None:
        """Count a batch."""
        fade = math.exp(-tries / _MEMORY)
        self._hits = self._hits * fade + hits
        self._tries = self._tries * fade + tries

    def value(self) -> float:
        """Hits by tries."""
        return self._hits / self._tries if self._tries else math.nan


class Metrics:
    """The metrics, on a registry of one's own; public attributes are gauges to set."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = CollectorRegistry() if registry is None else registry

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            made = Gauge(f"factors_{name}", text, labels, registry=registry)
            if not labels:
                made.set(math.nan)
            return made

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"factors_{name}", text, labels, registry=registry)

        self._events = counter(
            "events_total", "Records delivered, by what became of them and why.", "outcome", "reason"
        )
        self._latency = BatchHistogram(
            "factors_event_to_publish_seconds",
            "From the broker's timestamp of an event to the commit that published its effect.",
            _LATENCY_BOUNDS,
            registry=registry,
        )
        self._batch_events = BatchHistogram(
            "factors_batch_events", "Records in one transaction.", _BATCH_BOUNDS, registry=registry
        )
        self._batch_seconds = BatchHistogram(
            "factors_batch_seconds",
            "Seconds that a batch spent in a stage.",
            _STAGE_BOUNDS,
            registry=registry,
            label="stage",
            values=STAGES,
        )
        self._transactions = counter("transactions_total", "Transactions, by how they ended.", "result")
        self._lag = gauge("consumer_lag", "Records not yet processed.", "topic", "partition")
        self.freshness = gauge("freshness_seconds", "Age of the newest event, when it was last published.")
        self.solve_residual = gauge("solve_residual", "Largest relative residual of the last batch of user solves.")
        self.parity_error = gauge(
            "parity_error", "Largest relative error of recently sampled vectors against a fresh exact solve."
        )
        self.parity_error_max = gauge("parity_error_max", "The same since the start.")
        self._parity_checks = counter("parity_checks_total", "Published vectors compared with a fresh exact solve.")
        self._norm = BatchHistogram(
            "factors_vector_norm",
            "Euclidean norm of published vectors.",
            _NORM_BOUNDS,
            registry=registry,
            label="kind",
            values=KINDS,
        )
        self._nonfinite = counter("nonfinite_total", "Vectors held back because a number was not finite.")
        self.item_update_norm = gauge("item_update_norm", "Largest norm of an item vector's change in the last batch.")
        self.items_replica_lag = gauge(
            "items_replica_lag", "Records of item-factors that the local item matrix has not taken in yet."
        )
        self.gramian_drift = gauge(
            "gramian_drift", "Relative distance of the items' Gramian from an exact recount, when last looked at."
        )
        self._folded_items = counter("folded_items_total", "Items outside the model that were folded in.")
        self._capped_signals = counter(
            "capped_item_signals_total", "Signals of new items that only policy.new_items_cap keeps out."
        )
        self._unknown_item_ratio = gauge(
            "unknown_item_ratio", "Share of recent applied events whose item the model does not know."
        )
        self._cold_start_ratio = gauge(
            "cold_start_ratio", "Share of recently refreshed users without any known item in their history."
        )
        self.matrix_density = gauge("matrix_density", "Known items in a user's history over all items, recently.")
        self.top_item_share = gauge("top_item_share", "Share of recent events on the busiest item.")
        self.vector_coverage = gauge("vector_coverage", "Share of known ids that have a vector.", "kind")
        self._dedupe_hits = counter("dedupe_hits_total", "Records whose request id was already there.")
        self._store_rebuild = counter(
            "store_rebuild_total",
            "Local stores wiped or set aside and restored from the changelog.",
            "reason",
        )
        self.store_rows = gauge("store_rows", "Rows in the local stores.")
        self.restore_progress = gauge("restore_progress", "Share of the local state that is restored, 0 to 1.")
        self._model_info = gauge("model_info", "The model generation served: 1.", "model_version")
        self.model_traffic_ratio = gauge("model_traffic_ratio", "Share of users served by a model.", "model_version")
        self.alignment_residual = gauge(
            "alignment_residual",
            "Relative residual after a new generation was turned into the old one's space.",
        )
        self.rows_renewed = counter(
            "rows_renewed_total", "Rows brought into the generation that is served, after a cut.", "kind"
        )
        self.partitions_renewing = gauge(
            "partitions_renewing", "Partitions that still hold rows of another generation than the one served."
        )
        self.generations_refused = counter(
            "generations_refused_total", "Announced generations that could not be served; the one before goes on."
        )
        self.prequential_recall = gauge(
            "prequential_recall", "Recall@k of test-then-learn on sampled events, lately; k is quality.k.", "model"
        )
        self.prequential_ndcg = gauge("prequential_ndcg", "NDCG@k of the same events.", "model")
        self.prequential_users_recall = gauge(
            "prequential_users_recall", "Recall@k of users the training data knew, and of new ones.", "model", "users"
        )
        self.prequential_live_recall = gauge(
            "prequential_live_recall", "Recall@k of the live factors on all judged events, comparable or not."
        )
        self._judged = counter("prequential_judged_total", "Sampled events judged.", "users")
        self._not_comparable = counter(
            "prequential_not_comparable_total",
            "Judged events that no model's recall counts: what the frozen factors would say of them is lost.",
        )
        self._not_judged = counter("prequential_skipped_total", "Sampled events that there was no time to judge.")
        self.drift_psi = gauge("drift_psi", "Population stability index against the training data.", "feature")
        self.drift_alarm = gauge("drift_alarm", "Has the feature shifted for long enough: 1, else 0.", "feature")
        build = gauge("build_info", "What runs: 1.", "version", "python")

        for outcome, reason in _endings():
            self._events.labels(outcome, reason)
        for result in RESULTS:
            self._transactions.labels(result)
        build.labels(code_version(), platform.python_version()).set(1)
        self._unknown, self._cold = RecentRatio(), RecentRatio()
        self._parity: deque[float] = deque(maxlen=_PARITY_CHECKS)
        self._worst_parity = 0.0

    def count_outcomes(self, outcomes: Mapping[tuple[Outcome, Reason | None], int]) -> None:
        """Count a batch's records by outcome and reason (None where the outcome has none)."""
        for (outcome, reason), count in outcomes.items():
            self._events.labels(outcome.value, "" if reason is None else reason.value).inc(count)
            if outcome in (Outcome.DUPLICATE, Outcome.CONFLICT):
                self._dedupe_hits.inc(count)

    def observe_latency(self, seconds: npt.NDArray[np.floating]) -> None:
        """Event-to-publish seconds of a batch, any shape."""
        self._latency.observe(seconds)

    def observe_batch(self, records: int, seconds: Mapping[str, float]) -> None:
        """The size of a batch and its seconds by stage; stages that `STAGES` lacks are left out."""
        self._batch_events.observe(records)
        for stage, spent in seconds.items():
            if stage in STAGES:
                self._batch_seconds.observe(spent, stage)

    def observe_norms(self, kind: str, norms: npt.NDArray[np.floating]) -> None:
        """Norms of published vectors of a kind, user or item."""
        self._norm.observe(norms, kind)

    def count_transaction(self, result: str) -> None:
        """One transaction: committed, aborted or fenced."""
        self._transactions.labels(result).inc()

    def count_rebuild(self, reason: str) -> None:
        """One store restored from nothing."""
        self._store_rebuild.labels(reason).inc()

    def count_nonfinite(self, vectors: float) -> None:
        """Vectors held back because a number in them was not finite."""
        self._nonfinite.inc(vectors)

    def count_new_items(self, folded: float, capped: float) -> None:
        """Items folded in by a batch, and its signals of items that the cap kept out."""
        self._folded_items.inc(folded)
        self._capped_signals.inc(capped)

    def observe_unknown_items(self, unknown: float, events: float) -> None:
        """Applied events of a batch, and how many were on unknown items."""
        self._unknown.add(unknown, events)
        self._unknown_item_ratio.set(self._unknown.value())

    def observe_cold_starts(self, cold: float, users: float) -> None:
        """Users refreshed by a batch, and how many of them have no known item."""
        self._cold.add(cold, users)
        self._cold_start_ratio.set(self._cold.value())

    def count_judged(self, known: int, new: int) -> None:
        """Sampled events judged, of users that the training data knew and of new ones."""
        self._judged.labels("known").inc(known)
        self._judged.labels("new").inc(new)

    def count_not_comparable(self, events: int) -> None:
        """Judged events whose user's past can't be told from what came later."""
        self._not_comparable.inc(events)

    def forget_judged(self) -> None:
        """Another generation is judged from now on: what was exported of the one before is not its."""
        for one in (self.prequential_recall, self.prequential_ndcg, self.prequential_users_recall):
            one.clear()
        self.prequential_live_recall.set(math.nan)

    def count_not_judged(self, events: int) -> None:
        """Sampled events left out."""
        self._not_judged.inc(events)

    def observe_parity(self, error: float) -> None:
        """The relative error of one published vector against a fresh exact solve."""
        self._parity.append(error)
        self._worst_parity = max(self._worst_parity, error)
        self._parity_checks.inc()
        self.parity_error.set(max(self._parity))
        self.parity_error_max.set(self._worst_parity)

    def set_lag(self, topic: str, partition: int, records: int) -> None:
        """Records of a partition that wait to be processed."""
        self._lag.labels(topic, str(partition)).set(records)

    def forget_lag(self, topic: str, partition: int) -> None:
        """The partition is another worker's now: its lag here is no news."""
        self._lag.remove(topic, str(partition))

    def set_model(self, model_version: str) -> None:
        """The generation that is served from now on."""
        self._model_info.clear()
        self._model_info.labels(model_version).set(1)

    def scrape(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


def code_version() -> str:
    """The installed version of this package, "unknown" in a bare checkout."""
    try:
        return version("streaming-factors")
    except PackageNotFoundError:
        return "unknown"


def _endings() -> list[tuple[str, str]]:
    """Every outcome with each of its reasons, so that each series is there, at 0, before the first event."""
    with_reason = [(outcome.value, reason.value) for reason, outcome in OUTCOME_OF_REASON.items()]
    bare = [outcome.value for outcome in Outcome if outcome not in OUTCOME_OF_REASON.values()]
    return with_reason + [(outcome, "") for outcome in bare]
