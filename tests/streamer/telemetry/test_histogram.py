"""The batch histogram counts exactly as `prometheus_client`'s own, a value at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streamer.telemetry.histogram import BatchHistogram

_BOUNDS = (0.5, 1.0, 2.5)


def _samples(registry: CollectorRegistry, name: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if family.name == name
    }


@given(st.lists(st.lists(st.floats(0, 10, width=32) | st.sampled_from(_BOUNDS), max_size=30), max_size=4))
def test_batches_count_like_single_values(batches: list[list[float]]) -> None:
    """Same buckets, same count, same sum, whatever the batches; a value on a bound lies below it."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    batch = BatchHistogram("x", "help", _BOUNDS, registry=ours)
    single = Histogram("x", "help", buckets=_BOUNDS, registry=theirs)
    for values in batches:
        batch.observe(np.array(values))
        for value in values:
            single.observe(value)
    got, want = _samples(ours, "x"), _samples(theirs, "x")
    assert got == pytest.approx(want)
    assert got[("x_count", ())] == want[("x_count", ())]


def test_labels_and_numbers_that_are_not_finite() -> None:
    """Each label value has its own counts; NaN and infinity are left out, so that the sum stays a number."""
    registry = CollectorRegistry()
    histogram = BatchHistogram("x", "help", _BOUNDS, registry=registry, label="kind", values=("a", "b"))
    histogram.observe([1.0, np.nan, np.inf], "a")
    assert registry.get_sample_value("x_count", {"kind": "a"}) == 1
    assert registry.get_sample_value("x_sum", {"kind": "a"}) == 1.0
    assert registry.get_sample_value("x_bucket", {"kind": "a", "le": "1.0"}) == 1
    assert registry.get_sample_value("x_count", {"kind": "b"}) == 0


def test_bounds_must_ascend() -> None:
    """A wrong declaration fails at once."""
    with pytest.raises(ValueError, match="ascend"):
        BatchHistogram("x", "help", (1.0, 1.0), registry=CollectorRegistry())
