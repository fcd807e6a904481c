"""The replica takes what the item records say beside their vectors."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

from schemas.records import Policy
from streamer.engine.replica import ItemReplica
from streamer.steps.items import Items
from streamer.steps.records import Publisher
from tests.streamer.steps.world import FakeRecord


def records(encoding: Literal["json", "f32le"], extras: dict[bytes, bytes]) -> list[Any]:
    """Records as the item step publishes them."""
    publisher = Publisher("item", "test", "m1", 2, 0, encoding)
    keys, n = list(extras), len(extras)
    sent = publisher.records(
        keys, np.ones((n, 2), np.float32), [1] * n, [1] * n, [1] * n, list(extras.values()), [b"x"] * n, [], {}
    )
    return [FakeRecord(key, value, at, headers=tuple(headers)) for at, (key, value, _, headers) in enumerate(sent)]


@pytest.mark.parametrize("encoding", ["json", "f32le"])
def test_folded_items_and_popularities_are_remembered(encoding: Literal["json", "f32le"]) -> None:
    """In both encodings; a worker that starts later draws from the same catalogue, and balances alike."""
    view = Items(dimension=2, ridge=Policy().ridge, item_key=bytes(16), partitions=1)
    extras = {b"own": b',"popularity":2.5', b"new": b',"basis":"history","popularity":1.0', b"plain": b""}
    ItemReplica(view, "m1").factors(0, records(encoding, extras), 3)
    view.settle()
    assert view.space.size == 3
    assert view.folded == {"new"}
    assert view.popularity == {"own": 2.5, "new": 1.0}
    assert [view.space.ids[at] for at in view.frozen.tolist()] == ["own", "plain"]
