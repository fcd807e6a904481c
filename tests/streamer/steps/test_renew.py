"""Rows of one generation brought into another."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from schemas.layouts import (
    ItemRow,
    RowShape,
    decode_item_row,
    decode_signals,
    decode_user_rows,
    encode_item_row,
    generation_of,
)
from schemas.records import Policy
from streamer.events.hashes import generation_id
from streamer.steps import refresh
from streamer.steps.effects import Effects
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


def new_step(
    policy: Policy = POLICY,
    dimension: int = 8,
    trained: int = 7,
    count: int = 20,
    *,
    view: Items | None = None,
    **changes: Any,
) -> UserStep:
    """A step of generation m2 whose training saw everything up to ``trained``; its manifest changed."""
    view = items(policy, count, dimension, seed=5) if view is None else view
    made = msgspec.structs.replace(manifest(policy, dimension, "m2"), training_data_end=trained, **changes)
    among = {"founding": False, "shapes": {generation_id("m1"): OLD}}
    return user_step(policy, view=view, made=made, among=among)


def heard(effects: Effects) -> list[tuple[bytes, int]]:
    """The items that are told of a user, and the times (ms) of what they are told."""
    sends = [one for (topic, _), many in effects.sends.items() if topic == TOPICS.item_signals for one in many]
    times = decode_signals([value or b"" for _, value, _, _ in sends], dimension=8)["event_time"].tolist()
    return sorted((key or b"", time) for (key, *_), time in zip(sends, times, strict=True))


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
    assert heard(effects) == [(b"i0", NOW), (b"i1", NOW - 1000)]
    sends = [one for (topic, _), many in effects.sends.items() if topic == TOPICS.item_signals for one in many]
    signals = decode_signals([value or b"" for _, value, _, _ in sends], dimension=8)
    assert set(signals["generation"].tolist()) == {generation_id("m2")}
    again = step.renew([b"ann"], [dict(effects.rows)[b"ann"]], 0)
    assert not step.stale(b"ann", dict(again.rows)[b"ann"])


def test_a_row_from_before_the_cut_tells_nothing_whatever_its_clocks_say() -> None:
    """Events up to the cut offset were trained on, also those that a producer's fast clock dates later."""
    rows = old_rows()
    before = new_step(trained=NOW - 1500, count=2, cut_offsets={"0": 4, "1": 9})
    assert heard(before.renew([b"ann"], [rows[b"ann"]], 0)) == []
    one_more = new_step(trained=NOW - 1500, count=2, cut_offsets={"0": 3, "1": 9})
    assert heard(one_more.renew([b"ann"], [rows[b"ann"]], 0)) == [(b"i0", NOW), (b"i1", NOW - 1000)]


def test_a_fast_clock_in_the_training_data_hides_nothing_after_the_cut() -> None:
    """What the training ends at by a producer's clock may lie ahead of the cut by the broker's."""
    rows = old_rows()
    ahead = new_step(trained=NOW + 60_000, count=2, cut_time=NOW - 500)
    assert heard(ahead.renew([b"ann"], [rows[b"ann"]], 0)) == [(b"i0", NOW)]
    assert heard(new_step(trained=NOW + 60_000, count=2).renew([b"ann"], [rows[b"ann"]], 0)) == []


def test_an_item_that_only_the_old_generation_had_folded_in_hears_of_its_users() -> None:
    """It comes back once enough of them are known again; an item that nobody ever published is not told of."""
    rows, view = old_rows(), items(POLICY, 2, seed=5)
    view.others["i2"] = 4
    effects = new_step(trained=NOW - 2500, view=view).renew(KEYS, [rows[key] for key in KEYS], 0)
    assert heard(effects) == [(b"i0", NOW), (b"i1", NOW - 1000), (b"i2", NOW - 2000), (b"i2", NOW)]


def test_a_renewed_user_is_published_with_session_and_prior() -> None:
    """As with the next event: vector, session and basis of a user of this generation with the same events."""
    policy = Policy(
        history_capacity=8, keys_capacity=8, session_weight=0.3, session_gap_ms=1000, session_entries=2, blend_events=3
    )
    rows, fresh = old_rows(), dict[bytes, bytes]()
    bodies = [event(request_id=f"r{n}", item_id=f"i{n}", timestamp=NOW - 1000 * n) for n in range(4)]
    bodies.append(event(request_id="x", user_id="bob", item_id="i2"))
    [done] = run(new_step(policy), [record(offset, body) for offset, body in enumerate(bodies)], [], fresh)
    renewed = new_step(policy).renew(KEYS, [rows[key] for key in KEYS], 0)

    def said(effects: Effects) -> dict[str, Any]:
        bodies = [json.loads(value or b"") for _, value, _, _ in effects.sends[TOPICS.user_factors, 0]]
        return {body["id"]: [body.get(name) for name in ("vector", "session", "basis")] for body in bodies}

    assert said(renewed) == said(done)
    assert [basis for _, _, basis in said(renewed).values()] == ["history", "blend"]
    assert all(session for _, session, _ in said(renewed).values())


def test_a_vector_of_the_old_space_is_never_published_under_the_new_stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the solve gives no finite vector the average user stands in; at the next event the last good one does."""

    def unsolvable(*_: Any) -> np.ndarray:
        raise np.linalg.LinAlgError

    rows, step = old_rows(), new_step()
    good = step.renew([b"ann"], [rows[b"ann"]], 0)
    monkeypatch.setattr(refresh, "solve_cholesky", unsolvable)
    effects = step.renew(KEYS, [rows[key] for key in KEYS], 0)
    assert effects.facts["nonfinite"] == 2
    for _, value, _, _ in effects.sends[TOPICS.user_factors, 0]:
        body = json.loads(value or b"")
        assert (body["model_version"], body["basis"], body["vector"]) == ("m2", "average", [0.25] * 8)
    held = step.renew([b"ann"], [dict(good.rows)[b"ann"]], 0)
    before, after = (decode_user_rows([dict(one.rows)[b"ann"]], OLD).vector.tobytes() for one in (good, held))
    assert after == before


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


def test_an_items_row_that_is_ahead_of_the_replica_keeps_its_version() -> None:
    """A replica that lags behind knows an older one: what is published next is newer than both."""
    for there, known, next_version in ((30, 5, 31), (3, 9, 10)):
        view = items(POLICY, 1)
        view.others["i0"] = known
        row = ItemRow(generation_id("m1"), there, 12, NOW, 77, np.ones(8, np.float32))
        effects = item_step(view).renew([b"i0"], [encode_item_row(row)], 0)
        [(_, value, _, _)] = effects.sends["t.items", 0]
        assert json.loads(value or b"")["version"] == next_version
        kept = decode_item_row(dict(effects.rows)[b"i0"], dimension=8)
        assert (kept.version, kept.events, kept.event_time, kept.source_next) == (next_version, 12, NOW, 77)
