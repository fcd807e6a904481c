"""Which vectors a loader calls trained, whatever the stream has made of them since."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from schemas.records import Policy
from streamer import serving
from streamer.engine.lanes import Lanes
from streamer.engine.models import ActiveModel
from streamer.factors.checksum import items_sha256
from streamer.serving import Loader
from streamer.settings import load_settings
from streamer.steps.horizon import Horizon
from streamer.steps.items import Items
from tests.streamer.steps.world import FakeRecord, manifest

COMMON, OWN = "factors.item-factors", "factors.item-factors.m1"
IDS = ["a", "b", "c"]
TRAINED = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
MOVED = [("b", 2, np.full(8, 2, np.float32)), ("new", 2, np.full(8, 3, np.float32))]
MANIFEST = msgspec.structs.replace(manifest(Policy()), items_sha256=items_sha256(IDS, TRAINED))


def records(*vectors: tuple[str, int, np.ndarray]) -> list[FakeRecord]:
    """Item factors, each an id, a version and a vector."""
    about = {"kind": "item", "dimension": 8, "model_version": "m1", "events": 1, "event_time": 0, "items_epoch": []}
    return [
        FakeRecord(
            item_id.encode(),
            json.dumps(
                about
                | {"id": item_id, "vector": vector.tolist(), "version": version, "suppressed": []}
                | {"training_data_end": 7}
            ).encode(),
            at,
        )
        for at, (item_id, version, vector) in enumerate(vectors)
    ]


AS_TRAINED = records(*[(item_id, 1, vector) for item_id, vector in zip(IDS, TRAINED, strict=True)])
AS_MOVED = [AS_TRAINED[2], AS_TRAINED[0], *records(*MOVED)]  # the common topic, compacted


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Items]]:
    lanes = Lanes(1)

    def loaded(topics: Mapping[str, Sequence[FakeRecord]], item_topic: str, *, judged: bool = True) -> Items:
        class FakeFollower:
            """Reads a list where the real one reads a topic."""

            lag, task = 0, None

            def __init__(self, topic: str, client: object, on_records: Callable[..., None], maths: object) -> None:
                self.topic, self._on_records = topic, on_records

            async def start(self, progress: object = None) -> None:
                if self.topic not in topics:
                    raise LookupError(self.topic)
                self._on_records(0, topics[self.topic], len(topics[self.topic]))

            async def stop(self) -> None:
                pass

        monkeypatch.setattr(serving, "Follower", FakeFollower)
        loader = Loader(load_settings(None, {}), {}, lanes.maths, {"item-factors": 1}, Horizon(), judged)
        return asyncio.run(loader.load(ActiveModel(MANIFEST, item_topic, 1, 0))).items

    yield loaded
    lanes.close()


def trained(items: Items) -> dict[str, list[float]] | None:
    """What is called trained, by item id."""
    found: Any = items.trained
    if found is None:
        return None
    return {items.space.ids[at]: found.vectors[at].tolist() for at in np.flatnonzero(found.known).tolist()}


EXPECTED = {item_id: vector.tolist() for item_id, vector in zip(IDS, TRAINED, strict=True)}


def test_a_later_generation_was_trained_as_its_own_topic_has_it(load: Callable[..., Items]) -> None:
    """Not as the common topic moved it before this worker started; what was folded in was never trained."""
    items = load({COMMON: AS_MOVED, OWN: AS_TRAINED, "factors.items": []}, OWN)
    assert items.space.vectors[items.space.index_of("b")].tolist() == [2.0] * 8
    assert trained(items) == EXPECTED


def test_a_first_generation_that_nobody_moved_is_as_it_was_trained(load: Callable[..., Items]) -> None:
    """Its checksum says so: no second topic is needed."""
    assert trained(load({COMMON: AS_TRAINED, "factors.items": []}, COMMON)) == EXPECTED


def test_a_first_generation_that_has_moved_was_trained_as_its_own_topic_has_it(load: Callable[..., Items]) -> None:
    """A worker starts late, and the common topic holds what the stream made of it."""
    items = load({COMMON: AS_MOVED, OWN: AS_TRAINED, "factors.items": []}, COMMON)
    assert items.space.vectors[items.space.index_of("b")].tolist() == [2.0] * 8
    assert trained(items) == EXPECTED


@pytest.mark.parametrize("own", [{}, {OWN: AS_TRAINED[:2]}, {OWN: AS_MOVED}])
def test_what_nobody_has_any_more_is_not_made_up(load: Callable[..., Items], own: dict[str, Any]) -> None:
    """No topic of its own, or one that does not have the checksum: there is no frozen model, and the load goes on."""
    items = load({COMMON: AS_MOVED, "factors.items": []} | own, COMMON)
    assert items.space.size == 4
    assert trained(items) is None


@pytest.mark.parametrize("topic", [OWN, COMMON])
def test_nobody_keeps_a_second_copy_where_nobody_judges(load: Callable[..., Items], topic: str) -> None:
    """The items role alone, or a sample of 0."""
    assert trained(load({COMMON: AS_MOVED, OWN: AS_TRAINED, "factors.items": []}, topic, judged=False)) is None
