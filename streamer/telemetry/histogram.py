"""A Prometheus histogram that takes a whole batch of values at once.

`prometheus_client.Histogram.observe` costs a lock and a walk over the buckets for each value, a microsecond
or two; at tens of thousands of events a second that is a share of the core. Here numpy sorts a batch into
the buckets in one call, and the registry asks for the counts at a scrape through the public collector
interface.
"""

from collections.abc import Iterable, Sequence
from threading import Lock

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class BatchHistogram(Collector):
    """A histogram with at most one label, whose values are known from the start.

    Args:
        name: the metric's full name.
        text: its help.
        bounds: ascending upper bounds; a value equal to a bound lies below it, and +Inf is added.
        label: the label's name, "" for none.
        values: the label's values.
    """

    def __init__(
        self,
        name: str,
        text: str,
        bounds: Sequence[float],
        *,
        registry: CollectorRegistry,
        label: str = "",
        values: Iterable[str] = ("",),
    ) -> None:
        self._name, self._text, self._label = name, text, label
        self._bounds = np.array(bounds, np.float64)
        if not len(bounds) or not (np.diff(self._bounds) > 0).all():
            raise ValueError(f"{name}: the bounds of a histogram must ascend")
        self._limits = [*map(floatToGoString, bounds), "+Inf"]
        self._counts = {value: np.zeros(len(self._limits), np.int64) for value in values}
        self._sums = dict.fromkeys(self._counts, 0.0)
        self._lock = Lock()
        registry.register(self)

    def observe(self, values: npt.ArrayLike, of: str = "") -> None:
        """Count values (a number or an array of any shape); those that are not finite are left out."""
        flat = np.asarray(values, np.float64).ravel()
        flat = flat[np.isfinite(flat)]
        counts = np.bincount(np.searchsorted(self._bounds, flat), minlength=len(self._limits))
        with self._lock:
            self._counts[of] += counts
            self._sums[of] += float(flat.sum())

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The cumulative counts, as the exposition format wants them."""
        labels = [self._label] if self._label else []
        family = HistogramMetricFamily(self._name, self._text, labels=labels)
        with self._lock:
            for value, counts in self._counts.items():
                cumulative = np.cumsum(counts).tolist()
                buckets = list(zip(self._limits, map(float, cumulative), strict=True))
                family.add_metric([value] if labels else [], buckets, self._sums[value])
        return [family]
