"""The figures of a comparison, for people and for a file."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiokafka
import faust
import numpy as np
import psutil

from tests.bench.lines import Drain

Lines = Mapping[str, Sequence[Drain]]


def conditions() -> str:
    """What the figures were measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return (
        f"{psutil.cpu_count()} cores ({model}), shared by the broker, the measured process and the measuring; "
        f"Python {platform.python_version()}, numpy {np.__version__}, faust-streaming {faust.__version__}, "
        f"aiokafka {aiokafka.__version__}"
    )


def ratios(lines: Lines, base: str) -> dict[str, list[float]]:
    """Each line's rate over the base's of the same repeat."""
    rates = [drain.rate for drain in lines[base]]
    return {
        name: [drain.rate / rate for drain, rate in zip(drains, rates, strict=True)] for name, drains in lines.items()
    }


def table(lines: Lines, base: str) -> Iterator[str]:
    """One row a line: median (min-max)."""
    yield f"{'':20}{'events/s':>28}{'CPU us/event':>26}{'times ' + base + ', by pairs':>32}"
    for name, drains in lines.items():
        rates = [drain.rate for drain in drains]
        cpu = [drain.cpu_us for drain in drains]
        yield f"{name:20}{_spread(rates, 0):>28}{_spread(cpu, 1):>26}{_spread(ratios(lines, base)[name], 1):>32}"


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def figures(lines: Lines, base: str) -> dict[str, Any]:
    """The same for a file, each repeat by itself."""
    over = ratios(lines, base)
    return {
        name: {
            "events": [drain.events for drain in drains],
            "events_per_second": [drain.rate for drain in drains],
            "cpu_us_per_event": [drain.cpu_us for drain in drains],
            "rss_mb": [drain.rss_mb for drain in drains],
            "times_stock": over[name],
        }
        for name, drains in lines.items()
    }
