"""The evaluation over time and by segment: the same positions, cut another way.

Windows hold equally many scored events and overlap by half, so that a slow decay and a sudden break both show. A
segment is what one attribute of the event's ``context`` says, device or locale for instance.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bootstrap.metrics import ranked, shown

if TYPE_CHECKING:
    from bootstrap.columns import Columns
    from bootstrap.evaluate import Foretold
    from bootstrap.read import Log

Index = npt.NDArray[np.intp]

# Fewer scored events than this are no ground to judge a window or a segment by.
ENOUGH = 50
_SEGMENTS = 12
NONE, OTHER = "(none)", "(other)"


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the test events: a name, the times of the first and the last (ms), how many, and their metrics."""

    name: str
    start: int
    end: int
    events: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Segments:
    """code: (E,) of each of the columns' events, a number into ``names``."""

    code: npt.NDArray[np.int32]
    names: list[str]


def windows(foretold: Foretold, count: int, k: int) -> list[Part]:
    """``count`` windows over the scored events; fewer where there are not that many events."""
    scored = np.flatnonzero(foretold.scored)
    count = min(count, len(scored) - 1)
    if count < 1:
        return []
    edges = np.linspace(0, len(scored), count + 2).round().astype(np.intp)
    return [_part(str(number + 1), foretold, scored[edges[number] : edges[number + 2]], k) for number in range(count)]


def segments_of(log: Log, columns: Columns, attribute: str) -> Segments:
    """What the attribute says of each event; beyond the most frequent dozen all are "(other)"."""
    said = {
        request: NONE if (value := (event.context or {}).get(attribute)) is None else str(value)
        for event, request in zip(log.events, log.requests, strict=True)
    }
    # A request id occurs once in a log, and columns lack the few events whose item collides.
    values = [said[request] for request in columns.request.tolist()]
    names = [name for name, _ in Counter(values).most_common(_SEGMENTS)]
    code = {name: number for number, name in enumerate(names)}
    if len(set(values)) > len(names):
        names.append(OTHER)
    return Segments(np.array([code.get(value, len(names) - 1) for value in values], np.int32), names)


def by_segment(foretold: Foretold, segments: Segments, k: int) -> list[Part]:
    """The scored events of each segment that has any."""
    code = segments.code[foretold.event]
    parts = [
        _part(name, foretold, np.flatnonzero(foretold.scored & (code == number)), k)
        for number, name in enumerate(segments.names)
    ]
    return [part for part in parts if part.events]


def worst(parts: list[Part]) -> float | None:
    """The lowest recall of the parts that have enough events; None where none has."""
    return min((part.metrics["recall"] for part in parts if part.events >= ENOUGH), default=None)


def _part(name: str, foretold: Foretold, events: Index, k: int) -> Part:
    at, user = foretold.at[events], foretold.user[events]
    metrics = {
        f"{prefix}{metric}": value
        for prefix, position in foretold.positions().items()
        for metric, value in ranked(position[events], user, k).items()
    }
    metrics |= shown(foretold.lists[events], foretold.events)
    metrics["new_users"] = float((~foretold.known_user[events]).mean()) if len(events) else 0.0
    return Part(name, int(at.min(initial=2**62)), int(at.max(initial=0)), len(events), metrics)
