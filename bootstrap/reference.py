"""What the training data were made of: the workers compare the stream with it, and count popularity on from it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from schemas.records import POSITIVES, Reference

if TYPE_CHECKING:
    from bootstrap.read import Log

POPULAR = 200
"""Items named: more than any list and a history of the usual length leave out."""


def reference_of(log: Log) -> Reference:
    """Events by type and, of the positive ones, by item; ties in the order of the ids."""
    types = Counter(event.event_type for event in log.events)
    items = Counter(event.item_id for event in log.events if event.event_type in POSITIVES)
    popular = sorted(items.items(), key=lambda pair: (-pair[1], pair[0]))[:POPULAR]
    return Reference(dict(sorted(types.items())), dict(popular), items.total())
