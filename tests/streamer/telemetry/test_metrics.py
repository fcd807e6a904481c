"""The metrics of the contract: all there, in batches, without ids in labels."""

import math
from collections import Counter

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from schemas.outcomes import Outcome, Reason
from streamer.telemetry.metrics import Metrics, RecentRatio

CONTRACT = {
    "events_total": {"outcome", "reason"},
    "event_to_publish_seconds": set(),
    "batch_events": set(),
    "batch_seconds": {"stage"},
    "transactions_total": {"result"},
    "consumer_lag": {"topic", "partition"},
    "freshness_seconds": set(),
    "solve_residual": set(),
    "parity_error": set(),
    "parity_error_max": set(),
    "parity_checks_total": set(),
    "vector_norm": {"kind"},
    "nonfinite_total": set(),
    "item_update_norm": set(),
    "items_replica_lag": set(),
    "gramian_drift": set(),
    "folded_items_total": set(),
    "capped_item_signals_total": set(),
    "unknown_item_ratio": set(),
    "cold_start_ratio": set(),
    "matrix_density": set(),
    "top_item_share": set(),
    "vector_coverage": {"kind"},
    "dedupe_hits_total": set(),
    "store_rebuild_total": {"reason"},
    "store_rows": set(),
    "restore_progress": set(),
    "model_info": {"model_version"},
    "model_traffic_ratio": {"model_version"},
    "alignment_residual": set(),
    "prequential_recall": {"model"},
    "prequential_ndcg": {"model"},
    "prequential_users_recall": {"model", "users"},
    "prequential_judged_total": {"users"},
    "prequential_skipped_total": set(),
    "prequential_live_recall": set(),
    "prequential_not_comparable_total": set(),
    "drift_psi": {"feature"},
    "drift_alarm": {"feature"},
    "rows_renewed_total": {"kind"},
    "partitions_renewing": set(),
    "generations_refused_total": set(),
    "build_info": {"version", "python"},
}


def _value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"factors_{name}", labels)


def _filled() -> Metrics:
    """Metrics with one series of each labelled metric."""
    metrics = Metrics()
    metrics.set_lag("factors.interactions", 3, 17)
    metrics.count_rebuild("damaged")
    metrics.set_model("m1")
    metrics.vector_coverage.labels("user").set(1)
    metrics.model_traffic_ratio.labels("m1").set(1)
    metrics.prequential_recall.labels("live").set(0.1)
    metrics.prequential_ndcg.labels("live").set(0.1)
    metrics.prequential_users_recall.labels("live", "new").set(0.1)
    metrics.count_judged(1, 1)
    metrics.drift_psi.labels("event_types").set(0.1)
    metrics.drift_alarm.labels("loss").set(0)
    metrics.rows_renewed.labels("user").inc()
    return metrics


def test_every_metric_of_the_contract_is_on_a_scrape() -> None:
    """Name, help and labels, read back from the text format; and no metric that the contract lacks."""
    text = _filled().scrape().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    found = {}
    for family in families.values():
        assert family.documentation.endswith("."), family.name
        name = family.name.removeprefix("factors_") + ("_total" if family.type == "counter" else "")
        found[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    assert found == CONTRACT


def test_every_ending_of_a_record_is_there_from_the_start() -> None:
    """All outcomes and reasons stand at 0, so that a rate over them is never missing."""
    metrics = Metrics()
    assert _value(metrics, "events_total", outcome="applied", reason="") == 0
    assert _value(metrics, "events_total", outcome="conflict", reason="") == 0
    for reason in Reason:
        values = [
            _value(metrics, "events_total", outcome=outcome, reason=reason) for outcome in ("dead_letter", "filtered")
        ]
        assert values.count(0.0) == 1, reason


def test_outcomes_add_up_and_duplicates_count_as_hits() -> None:
    """A batch's counter goes in as it is."""
    metrics = Metrics()
    outcomes: Counter[tuple[Outcome, Reason | None]] = Counter(
        {
            (Outcome.APPLIED, None): 5,
            (Outcome.DUPLICATE, None): 2,
            (Outcome.CONFLICT, None): 1,
            (Outcome.DEAD_LETTER, Reason.SCHEMA): 3,
        }
    )
    metrics.count_outcomes(outcomes)
    metrics.count_outcomes(outcomes)
    assert _value(metrics, "events_total", outcome="applied", reason="") == 10
    assert _value(metrics, "events_total", outcome="dead_letter", reason="schema") == 6
    assert _value(metrics, "dedupe_hits_total") == 6


def test_nothing_measured_is_not_a_number() -> None:
    """An audit that never ran has no error, not an error of 0."""
    metrics = Metrics()
    for name in ("parity_error", "prequential_recall", "solve_residual", "restore_progress"):
        value = _value(metrics, name)
        assert value is None or math.isnan(value)


def test_batches_latency_and_norms() -> None:
    """Histograms take a batch; a stage that nobody declared is left out rather than invented."""
    metrics = Metrics()
    metrics.observe_batch(100, {"read": 0.001, "commit": 0.004, "other": 1.0})
    metrics.observe_latency(np.array([[0.01, 0.02], [0.03, 5.0]]))
    metrics.observe_norms("user", np.array([0.5, 2.0], np.float32))
    assert _value(metrics, "batch_events_count") == 1
    assert _value(metrics, "batch_seconds_count", stage="commit") == 1
    assert _value(metrics, "batch_seconds_count", stage="other") is None
    assert _value(metrics, "event_to_publish_seconds_count") == 4
    assert _value(metrics, "event_to_publish_seconds_sum") == pytest.approx(5.06)
    assert _value(metrics, "vector_norm_count", kind="user") == 2


def test_one_model_at_a_time() -> None:
    """A new generation replaces the series of the old one."""
    metrics = Metrics()
    metrics.set_model("m1")
    metrics.set_model("m2")
    assert _value(metrics, "model_info", model_version="m1") is None
    assert _value(metrics, "model_info", model_version="m2") == 1


def test_lag_goes_with_the_partition() -> None:
    """A partition that moved to another worker leaves no stale lag behind."""
    metrics = Metrics()
    metrics.set_lag("t", 0, 5)
    metrics.forget_lag("t", 0)
    assert _value(metrics, "consumer_lag", topic="t", partition="0") is None


def test_two_workers_in_one_process_do_not_meet() -> None:
    """The registry is injected; the global one stays out of it."""
    registry = CollectorRegistry()
    Metrics(registry)
    Metrics()
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(registry)


def test_recent_ratio_forgets() -> None:
    """Old batches fade, one batch counts exactly."""
    ratio = RecentRatio()
    assert math.isnan(ratio.value())
    ratio.add(1, 4)
    assert ratio.value() == 0.25
    for _ in range(100):
        ratio.add(0, 10_000)
    assert ratio.value() < 1e-6
