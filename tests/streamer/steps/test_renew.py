"""Rows of one generation brought into another."""

from __future__ import annotations

import json

import numpy as np
import pytest

from schemas.layouts import RowShape, decode_item_row, decode_signals, decode_user_rows, generation_of
from schemas.records import Policy
from streamer.events.hashes import generation_id
from streamer.steps.item import ItemStep, ItemTopics
from streamer.steps.items import Items
from streamer.steps.user import UserStep
from tests.streamer.steps.world import NOW, TOPICS, event, items, manifest, record, run, user_step

POLICY = Policy(history_capacity=8, keys_capacity=8)
OLD = RowShape(8, 8, 8, 2)
KEYS = (b"ann", b"bob")


def old_rows() -> dict[bytes, bytes]:
    """Two users of generation m1, five events."""
    rows: dict[bytes, bytes] = {}
    bodies = [event(request_id=f"r{n}", item_id=f"i{n}", timestamp=NOW - 1000 * n) for n in range(4)]
    bodies.append(event(request_id="x", user_id="bob", item_id="i2"))
    run(user_step(POLICY), [record(offset, body) for offset, body in enumerate(bodies)], [], rows)
    return rows


def new_step(policy: Policy = POLICY, dimension: int = 8, trained: int = 7, count: int = 20) -> UserStep:
    """A step of generation m2 whose training saw everything up to ``trained``."""
    view = items(policy, count, dimension, seed=5)
    made = manifest(policy, dimension, "m2")
    made = type(made)(**{name: getattr(made, name) for name in made.__struct_fields__} | {"training_data_end": trained})
    among = {"founding": False, "shapes": {generation_id("m1"): OLD}}
    return user_step(policy, view=view, made=made, among=among)


@pytest.mark.parametrize(("dimension", "history"), [(8, 8), (5, 8), (8, 3)])
def test_a_renewed_user_is_as_if_solved_there_all_along(dimension: int, history: int) -> None:
    """The same vector as a user of the new generation with the same events, also in another shape; version + 1."""
    policy = Policy(history_capacity=history, keys_capacity=8)
    step, rows = new_step(policy, dimension), old_rows()
    assert all(step.stale(key, rows[key]) for key in KEYS)
    effects = step.renew(KEYS, [rows[key] for key in KEYS], 0)
    fresh: dict[bytes, bytes] = {}
    bodies = [event(request_id=f"r{n}", item_id=f"i{n}", timestamp=NOW - 1000 * n) for n in range(4)]
    bodies.append(event(request_id="x", user_id="bob", item_id="i2"))
    run(new_step(policy, dimension), [record(offset, body) for offset, body in enumerate(bodies)], [], fresh)
    shape = RowShape(dimension, history, 8, 2)
    got = decode_user_rows([dict(effects.rows)[key] for key in KEYS], shape)
    want = decode_user_rows([fresh[key] for key in KEYS], shape)
    assert got.vector.tobytes() == want.vector.tobytes()
    assert got.head["version"].tolist() == [2, 2]
    assert got.head["events"].tolist() == [4, 1]
    assert not any(step.stale(key, row) for key, row in effects.rows)
    published = [json.loads(value or b"") for _, value, _, _ in effects.sends[TOPICS.user_factors, 0]]
    assert [(one["model_version"], one["version"]) for one in published] == [("m2", 2), ("m2", 2)]
    np.testing.assert_array_equal(np.array([one["vector"] for one in published], np.float32), got.vector)


def test_items_hear_of_what_the_training_did_not_hold_once() -> None:
    """Entries newer than the training data, of items that the model knows; none of older ones."""
    step, rows = new_step(trained=NOW - 1500, count=2), old_rows()
    effects = step.renew(KEYS, [rows[key] for key in KEYS], 0)
    sends = [one for (topic, _), many in effects.sends.items() if topic == TOPICS.item_signals for one in many]
    signals = decode_signals([value or b"" for _, value, _, _ in sends], dimension=8)
    assert sorted(zip([key for key, *_ in sends], signals["event_time"].tolist(), strict=True)) == [
        (b"i0", NOW),
        (b"i1", NOW - 1000),
    ]
    assert set(signals["generation"].tolist()) == {generation_id("m2")}
    again = step.renew([b"ann"], [dict(effects.rows)[b"ann"]], 0)
    assert not step.stale(b"ann", dict(again.rows)[b"ann"])


def item_step(view: Items) -> ItemStep:
    """The items of generation m2."""
    made = manifest(POLICY, model_version="m2")
    return ItemStep(made, view, ItemTopics("t.signals", "t.items"), encoding="json", source="test", founding=False)


def test_items_are_published_as_trained_and_unknown_ones_withdrawn() -> None:
    """Under a version newer than anything that stands; an item that only the old generation had gets a tombstone."""
    view = items(POLICY, 3)
    view.others.update({"i0": 9, "gone": 4})
    step = item_step(view)
    of = {key: view.of(key.decode())[2] for key in (b"i0", b"i1", b"i2", b"gone")}
    assert {key: number for number in (0, 1) for key in step.unwritten(number)} == of
    assert all(step.stale(key, None) for key in of)
    assert not step.stale(b"never heard of", None)
    effects = step.renew(list(of), [None] * 4, 0)
    rows = {key: decode_item_row(row, dimension=8) for key, row in effects.rows}
    assert {key: (row.version, row.known) for key, row in rows.items()} == {
        b"i0": (10, True),
        b"i1": (2, True),
        b"i2": (2, True),
        b"gone": (4, False),
    }
    sends = {key: value for key, value, _, _ in effects.sends["t.items", 0]}
    assert sends.pop(b"gone") is None
    for key, value in sends.items():
        body = json.loads(value or b"")
        index = view.space.index_of(body["id"])
        assert np.array(body["vector"], np.float32).tobytes() == view.space.vectors[index].tobytes()
        assert body["version"] == rows[key or b""].version
    assert {generation_of(row) for _, row in effects.rows} == {generation_id("m2")}
    assert not any(step.stale(key, row) for key, row in effects.rows)
