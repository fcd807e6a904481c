"""The reference counts what was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootstrap import reference
from bootstrap.reference import reference_of
from schemas.records import Reference
from tests.bootstrap.small import NOW_MS, event

if TYPE_CHECKING:
    import pytest

    from tests.bootstrap.small import Made, Reading


def test_events_by_type_and_by_item(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    """What suppresses is a type but makes nothing popular; a duplicate counts once; few items are named."""
    log = reading(
        event(item="a", kind="click"),
        event(item="b", kind="click"),
        event(item="b", kind="click"),
        event(item="b", kind="like", at=NOW_MS - 1),
        event(item="c", kind="like"),
        event(item="a", kind="hide"),
    )
    assert reference_of(log) == Reference({"click": 2, "hide": 1, "like": 2}, {"b": 2, "a": 1, "c": 1}, 4)
    monkeypatch.setattr(reference, "POPULAR", 1)
    assert reference_of(log).popular_items == {"b": 2}


def test_the_manifest_has_it(made: Made) -> None:
    """And it adds up."""
    found = made.manifest.reference
    assert isinstance(found, Reference)
    assert sum(found.event_types.values()) == made.manifest.counts["events"]
    assert sum(found.popular_items.values()) <= found.item_events == made.manifest.counts["applied"]
    assert list(found.popular_items.values()) == sorted(found.popular_items.values(), reverse=True)
