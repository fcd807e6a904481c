"""The evaluation cut by time and by segment."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bootstrap.columns import columns_of
from bootstrap.evaluate import Foretold
from bootstrap.windows import NONE, OTHER, Segments, by_segment, segments_of, windows, worst
from tests.bootstrap.small import KEY, NOW_MS, changed, event

if TYPE_CHECKING:
    from tests.bootstrap.small import Reading


def foretold(folded: list[float], **changes: Any) -> Foretold:
    """A replay of one user's events, a second apart, in which every item was trained."""
    count = len(folded)
    fields: dict[str, Any] = {
        "event": np.arange(count),
        "user": np.zeros(count, np.intp),
        "item": np.arange(count),
        "at": 1_000 * np.arange(count),
        "folded": np.array(folded, np.float64),
        "frozen": np.full(count, 99.0),
        "popular": np.full(count, 3.0),
        "lists": np.tile(np.arange(2, dtype=np.int32), (count, 1)),
        "known_user": np.arange(count) % 2 == 0,
        "known_item": np.ones(count, bool),
        "trained_item": np.ones(count, bool),
        "first": np.ones(count, bool),
        "events": np.ones(4, np.int64),
    }
    return Foretold(**{**fields, **changes})


def test_windows_overlap_by_half_and_cover_everything() -> None:
    """Hits first, misses then: recall falls from 1 to 0 over windows of equal size; what is not scored is in none."""
    found = windows(foretold([0.0] * 100 + [-1.0] * 30 + [50.0] * 100), 19, 10)
    assert len(found) == 19
    assert {part.events for part in found} == {20}
    assert [part.metrics["recall"] for part in found] == [1.0] * 9 + [0.5] + [0.0] * 9
    assert found[0].start == 0
    assert found[-1].end == 229_000
    assert all(later.start <= earlier.end for earlier, later in pairwise(found))
    assert found[9].end - found[9].start == 49_000
    assert {part.metrics["popularity_recall"] for part in found} == {1.0}
    assert {part.metrics["coverage"] for part in found} == {0.5}
    assert {part.metrics["new_users"] for part in found} == {0.5}


@pytest.mark.parametrize(("events", "expected"), [(0, 0), (1, 0), (2, 1), (5, 4)])
def test_few_events_make_few_windows(events: int, expected: int) -> None:
    """Never an empty one."""
    found = windows(foretold([0.0] * events), 20, 10)
    assert len(found) == expected
    assert all(part.events for part in found)


def test_the_worst_needs_enough_events() -> None:
    """A window of a handful of events is no ground to refuse a model."""
    assert worst(windows(foretold([0.0] * 60), 20, 10)) is None
    assert worst(windows(foretold([0.0] * 200 + [50.0] * 50), 4, 10)) == 0.5


def test_segments_are_what_the_context_says(reading: Reading) -> None:
    """Text, numbers and booleans as text; absent and null alike; the rare ones together."""
    said: list[Any] = [{"device": "phone"}, {"device": 7}, {"device": True}, {"device": None}, {}, None]
    log = reading(*(event(item=f"i{n}", context=context, request_id=f"r{n}") for n, context in enumerate(said)))
    columns, _ = columns_of(log, changed(), KEY)
    segments = segments_of(log, columns, "device")
    assert [segments.names[code] for code in segments.code] == ["phone", "7", "True", NONE, NONE, NONE]
    assert segments.names[0] == NONE
    many = reading(*(event(item=f"i{n}", context={"device": str(n // 2)}, request_id=f"r{n}") for n in range(40)))
    segments = segments_of(many, columns_of(many, changed(), KEY)[0], "device")
    assert len(segments.names) == 13
    assert [segments.names[code] for code in segments.code[24:]] == [OTHER] * 16


def test_each_segment_is_scored_alone() -> None:
    """One half hits, the other misses; a segment without a scored event is not there."""
    segments = Segments(np.array([0, 1] * 30 + [2]), ["phone", "desk", "empty"])
    found = by_segment(foretold([0.0, 50.0] * 30 + [-1.0]), segments, 10)
    assert {part.name: (part.events, part.metrics["recall"]) for part in found} == {"phone": (30, 1.0), "desk": (30, 0)}


def test_an_event_that_collides_is_in_no_segment(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns lack it, and the others keep their own segment."""
    from bootstrap import columns as columns_module

    log = reading(*(event(item=item, at=NOW_MS - n, context={"device": item}) for n, item in enumerate("abc")))
    monkeypatch.setattr(columns_module, "item_hash", lambda item_id, key: {"a": 1, "b": 1, "c": 2}[item_id])
    columns, collisions = columns_of(log, changed(), KEY)
    segments = segments_of(log, columns, "device")
    assert collisions == 1
    assert [segments.names[code] for code in segments.code] == ["a", "c"]
