"""What a worker says about itself on /metrics: its outcomes, its batches, and where a batch's time goes."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from streamer.telemetry.metrics import STAGES

_AWAITING = ("wait", "commit")


@dataclass(frozen=True, slots=True)
class Scrape:
    """Sums since the worker started; seconds by stage."""

    records: float
    batches: float
    seconds: dict[str, float]
    outcomes: dict[str, float]

    def since(self, before: Scrape) -> Scrape:
        """What came between two scrapes."""
        return Scrape(
            self.records - before.records,
            self.batches - before.batches,
            {stage: spent - before.seconds[stage] for stage, spent in self.seconds.items()},
            {name: count - before.outcomes.get(name, 0.0) for name, count in self.outcomes.items()},
        )

    def table(self, wall: float, cpu: float) -> Iterator[str]:
        """Lines of the stage table; wall and cpu in seconds over the same span."""
        if not self.records:
            return
        yield f"  {self.batches:.0f} batches of {self.records / max(self.batches, 1):.0f} records on average"
        yield f"  {'stage':26} {'us/event':>9} {'of wall':>9}"
        for stage in STAGES:
            if stage not in _AWAITING:
                yield self._row(stage, self.seconds[stage], wall)
        rest = cpu - sum(spent for stage, spent in self.seconds.items() if stage not in _AWAITING)
        yield self._row("all else (fetch, send)", rest, wall)
        yield self._row("CPU in all", cpu, wall)
        yield self._row("wall", wall, wall)
        yield (
            f"  a batch's commit takes {1e3 * self.seconds['commit'] / max(self.batches, 1):.0f} ms; "
            "the other partitions work meanwhile"
        )

    def _row(self, name: str, seconds: float, wall: float) -> str:
        return f"  {name:26} {1e6 * seconds / self.records:9.2f} {seconds / wall:9.1%}"


def scrape(port: int) -> Scrape:
    """One look at a worker's metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    values: dict[str, float] = {}
    seconds = dict.fromkeys(STAGES, 0.0)
    outcomes: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "factors_batch_seconds_sum":
                seconds[sample.labels["stage"]] = sample.value
            elif sample.name == "factors_events_total" and sample.value:
                name = ":".join(filter(None, (sample.labels["outcome"], sample.labels["reason"])))
                outcomes[name] = sample.value
            elif not sample.labels:
                values[sample.name] = sample.value
    return Scrape(
        values.get("factors_batch_events_sum", 0.0), values.get("factors_batch_events_count", 0.0), seconds, outcomes
    )


def is_ready(port: int) -> bool:
    """Does /readyz say yes?"""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
