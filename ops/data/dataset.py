"""A data set: interaction events in log order and the catalogue that they speak of, as contract values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Event = dict[str, Any]
Item = dict[str, Any]


class DataUnavailableError(Exception):
    """The data set cannot be had here; the message is the reason, for people."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Events in log order and catalogue entries.

    events: the fields of `schemas/interaction.v1.json`, timestamps in ms, never decreasing.
    items: ``item_id`` beside the fields of a catalogue entry (title, attributes).
    note: why this set and not another, "" where nothing need be said.
    """

    name: str
    events: tuple[Event, ...]
    items: tuple[Item, ...]
    note: str = ""

    def rebase(self, last_ms: int) -> Dataset:
        """All timestamps shifted alike, so that the newest event is at ``last_ms``."""
        if not self.events:
            return self
        shift = last_ms - max(event["timestamp"] for event in self.events)
        moved = tuple({**event, "timestamp": event["timestamp"] + shift} for event in self.events)
        return replace(self, events=moved)

    def squeezed(self, span_ms: int) -> Dataset:
        """The times brought closer together, evenly, so that all lie within ``span_ms`` before the newest event."""
        times = [event["timestamp"] for event in self.events]
        if not times or (length := max(times) - min(times)) <= span_ms:
            return self
        last = max(times)
        moved = tuple({**one, "timestamp": last - (last - one["timestamp"]) * span_ms // length} for one in self.events)
        return replace(self, events=moved)

    def split(self, fraction: float) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
        """The events before and after the cut that leaves ``fraction`` of them before it."""
        cut = round(len(self.events) * fraction)
        return self.events[:cut], self.events[cut:]


def write_ndjson(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object a line, aside and then renamed (nobody sees half a file); return how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    count = 0
    with aside.open("wb") as file:
        for row in rows:
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            count += 1
    aside.replace(path)
    return count
