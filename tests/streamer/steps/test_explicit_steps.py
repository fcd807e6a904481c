"""Explicit feedback through both steps: vector and bias solved, published and moved; the newest rating counts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import msgspec
import numpy as np
import orjson
import pytest

from schemas.layouts import RowShape, decode_item_row, decode_signals, decode_user_rows, encode_user_rows
from schemas.outcomes import Outcome, Reason
from schemas.records import FactorRecord, Manifest, Policy
from streamer.engine.replica import ItemReplica
from streamer.events.hashes import generation_id
from streamer.events.read import Reader
from streamer.factors.checksum import items_sha256
from streamer.factors.explicit import apply_ratings, solve_ratings
from streamer.factors.ridge import Ridge
from streamer.steps.effects import Effects
from streamer.steps.item import ItemStep, ItemTopics
from streamer.steps.items import Items
from streamer.steps.parity import parity_error
from streamer.steps.user import UserStep
from tests.oracle.judge import judge
from tests.oracle.logs import LogRecord
from tests.oracle.rules import Rules
from tests.streamer.steps.world import NOW, TOPICS, FakeRecord, event, items, manifest, record, run

K, MEAN = 7, 3.4
ITEM_TOPICS = ItemTopics(TOPICS.item_signals, "t.item-factors")
POLICY = Policy(feedback="explicit", ridge=0.5, ridge_bias=0.3, sgd_rate=0.05, history_capacity=16)


def explicit(policy: Policy = POLICY, dimension: int = K, version: str = "m1") -> Manifest:
    more: dict[str, Any] = {"policy": policy, "global_mean": MEAN, "average_bias": -0.125}
    return msgspec.structs.replace(manifest(Policy(), dimension, version), algorithm="explicit-als", **more)


def user_step(view: Items, policy: Policy = POLICY, encoding: Literal["json", "f32le"] = "json") -> UserStep:
    reader = Reader(policy, tenant=None, max_bytes=65_536, invalid_items=view.invalid)
    return UserStep(
        explicit(policy), view, TOPICS, reader, solver="cg", tolerance=1e-6, encoding=encoding, source="test"
    )


def item_step(view: Items) -> ItemStep:
    return ItemStep(explicit(), view, ITEM_TOPICS, encoding="json", source="test")


def rate(number: int, item: str, value: float, **changes: Any) -> FakeRecord:
    body = event(request_id=f"r{number}", item_id=item, event_type="watch_complete", value=value, **changes)
    return record(number, body)


def published(effects: Effects, topic: str = TOPICS.user_factors) -> list[FactorRecord]:
    return [msgspec.json.decode(value or b"", type=FactorRecord) for _, value, _, _ in effects.sends[topic, 0]]


def row_of(factor: FactorRecord) -> np.ndarray:
    """(k + 1,) the vector, and behind it the bias that must be there."""
    assert factor.bias is not None
    return np.array([*factor.vector, factor.bias], np.float32)


def solved(view: Items, ratings: dict[str, float]) -> np.ndarray:
    rows = view.space.vectors[[view.space.index_of(item) for item in ratings]]
    return solve_ratings(rows, np.array([*ratings.values()]), np.ones(len(ratings)), MEAN, POLICY)


@pytest.mark.parametrize("envelope", [False, True])
def test_what_is_no_rating_takes_no_ratings_place(envelope: bool) -> None:
    """A view without a value is set aside, with one it rates, of 1 too; what hides an item needs none."""
    view, rows = items(POLICY), dict[bytes, bytes]()
    bodies = [
        event(request_id="1", value=5.0),
        event(request_id="2", event_type="view", timestamp=NOW + 1),
        event(request_id="3", item_id="i4", value=1),
        event(request_id="4", item_id="i4", event_type="hide"),
    ]
    values = [orjson.dumps(wrapped(body) if envelope else body) for body in bodies]
    records = [record(number, body, value=values[number]) for number, body in enumerate(bodies)]
    [effects] = run(user_step(view), records, [], rows)
    assert effects.outcomes == {
        (Outcome.APPLIED, None): 2,
        (Outcome.FILTERED, Reason.SET_ASIDE): 1,
        (Outcome.SUPPRESSED, None): 1,
    }
    wanted = solved(view, {"i1": 5.0, "i4": 1.0})
    np.testing.assert_allclose(row_of(published(effects)[0]), wanted, rtol=1e-5)
    rules = Rules.of_manifest(msgspec.json.encode(explicit()), partitions=1)
    assert [judge(LogRecord(0, one.offset, one.key, one.value, NOW), rules).withheld for one in records] == [
        "",
        "set_aside",
        "",
        "",
    ]


def wrapped(body: dict[str, Any]) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "e", "source": "s", "type": "t", "data": body}


def test_vector_and_bias_are_solved_and_published_apart() -> None:
    """The record holds k numbers and the bias; together they are the exact solve of the history."""
    view, rows = items(POLICY), dict[bytes, bytes]()
    records = [rate(0, "i1", 5.0), rate(1, "i4", 2.0), rate(2, "i9", 4.0)]
    [effects] = run(user_step(view), records, [], rows)
    [factor] = published(effects)
    wanted = solved(view, {"i1": 5.0, "i4": 2.0, "i9": 4.0})
    assert (len(factor.vector), factor.dimension, factor.basis) == (K, K, "history")
    assert np.array_equal(row_of(factor), wanted)
    shape = RowShape(K + 1, POLICY.history_capacity, POLICY.keys_capacity, 2)
    assert np.array_equal(decode_user_rows([rows[b"ann"]], shape).vector[0], wanted)


def test_no_weight_of_the_event_type_changes_a_rating() -> None:
    """The value is the rating, whichever positive event brings it."""
    told = []
    for kind in ("view", "purchase"):
        [effects] = run(user_step(items(POLICY)), [record(0, event(event_type=kind, value=4.0))], [], {})
        told.append(published(effects)[0].bias)
    assert told[0] == told[1]


@pytest.mark.parametrize("cuts", [[], [1, 2]])
def test_a_newer_rating_replaces_the_older_one(cuts: list[int]) -> None:
    """It is not added up, a late one changes nothing, and its item's signal says the rating that counts."""
    view, rows = items(POLICY), dict[bytes, bytes]()
    records = [
        rate(0, "i1", 2.0, timestamp=NOW - 20),
        rate(1, "i1", 4.5, timestamp=NOW - 10),
        rate(2, "i1", 1.0, timestamp=NOW - 15),
    ]
    effects = run(user_step(view), records, cuts, rows)
    factor = published(effects[-1])[-1]
    assert np.array_equal(row_of(factor), solved(view, {"i1": 4.5}))
    target = (TOPICS.item_signals, view.of("i1")[2])
    last = decode_signals([value or b"" for _, value, _, _ in effects[-1].sends[target]], dimension=K + 1)[-1]
    assert last["confidence"] == np.float32(4.5)


def test_a_user_without_a_known_item_is_the_average_with_its_bias() -> None:
    """And says so."""
    [effects] = run(user_step(items(POLICY)), [rate(0, "nobody knows it", 5.0)], [], {})
    [factor] = published(effects)
    assert (factor.vector, factor.bias, factor.basis) == ([0.25] * K, -0.125, "average")


def test_raw_records_say_the_bias_in_their_header() -> None:
    """The value is the k numbers alone."""
    [effects] = run(user_step(items(POLICY), encoding="f32le"), [rate(0, "i1", 5.0)], [], {})
    [(_, value, _, headers)] = effects.sends[TOPICS.user_factors, 0]
    wanted = solved(items(POLICY), {"i1": 5.0})
    assert np.array_equal(np.frombuffer(value or b"", "<f4"), wanted[:-1])
    assert np.float32(orjson.loads(dict(headers)["factors.record"])["bias"]) == wanted[-1]


def test_a_moving_item_bias_is_published_and_the_next_solve_sees_it() -> None:
    """User step, its signal, item step, replica, and the user once more: all in one space of vector and bias."""
    view, rows, item_rows = items(POLICY), dict[bytes, bytes](), dict[bytes, bytes]()
    step = user_step(view)
    [effects] = run(step, [rate(0, "i1", 5.0), rate(1, "i4", 2.0)], [], rows)
    factor = published(effects)[0]
    signals = [
        FakeRecord(key, value, at)
        for number in range(2)
        for at, (key, value, _, _) in enumerate(effects.sends.get((TOPICS.item_signals, number), []))
    ]
    before = view.space.vectors.copy()
    batch = item_step(view).read(signals, 0)
    moved = item_step(view).apply(batch, [None] * len(batch.keys))
    item_rows.update(moved.rows)
    told = {one.id: one for one in published(moved, ITEM_TOPICS.item_factors)}
    user = row_of(factor)
    for name, rating in (("i1", 5.0), ("i4", 2.0)):
        index, one = view.space.index_of(name), told[name]
        wanted, _ = apply_ratings(before[[index]], np.zeros(1, np.intp), user[None], np.array([rating]), MEAN, POLICY)
        assert np.array_equal(row_of(one), wanted[0])
        assert one.bias != before[index, -1]
        assert len(one.vector) == one.dimension == K
        assert np.array_equal(decode_item_row(item_rows[name.encode()], dimension=K + 1).vector, wanted[0])
    replica = ItemReplica(view, "m1")
    sent = moved.sends[ITEM_TOPICS.item_factors, 0]
    replica.factors(0, [FakeRecord(key, value, at) for at, (key, value, _, _) in enumerate(sent)], 2)
    assert replica.refused == 0
    [again] = run(step, [rate(2, "i9", 3.0)], [], rows)
    fresh = published(again)[0]
    assert np.array_equal(row_of(fresh), solved(view, {"i1": 5.0, "i4": 2.0, "i9": 3.0}))


@pytest.mark.parametrize("dimension", [K, 4])
def test_users_are_renewed_into_another_generation_of_ratings(dimension: int) -> None:
    """Solved anew from the kept ratings, with their bias, whatever the new dimension; items hear of the new ratings."""
    rows = dict[bytes, bytes]()
    ratings = {"i1": 5.0, "i4": 2.0, "i9": 4.0}
    told = [rate(at, item, value, timestamp=NOW - 1_000 * at) for at, (item, value) in enumerate(ratings.items())]
    run(user_step(items(POLICY)), told, [], rows)
    view = items(POLICY, dimension=dimension + 1, seed=3)
    made = msgspec.structs.replace(explicit(dimension=dimension, version="m2"), training_data_end=NOW - 1_500)
    shape = RowShape(K + 1, POLICY.history_capacity, POLICY.keys_capacity, 2)
    reader = Reader(POLICY, tenant=None, max_bytes=65_536, invalid_items=view.invalid)
    more: dict[str, Any] = {"solver": "cg", "tolerance": 1e-6, "encoding": "json", "source": "test"}
    step = UserStep(made, view, TOPICS, reader, **more, founding=False, shapes={generation_id("m1"): shape})
    assert step.stale(b"ann", rows[b"ann"])
    effects = step.renew([b"ann"], [rows[b"ann"]], 0)
    [factor] = published(effects)
    wanted = solved(view, ratings)
    assert (factor.model_version, factor.version, factor.dimension) == ("m2", 2, dimension)
    assert np.array_equal(row_of(factor), wanted)
    assert not step.stale(b"ann", dict(effects.rows)[b"ann"])
    sent = [one for (topic, _), many in effects.sends.items() if topic == TOPICS.item_signals for one in many]
    signals = decode_signals([value or b"" for _, value, _, _ in sent], dimension=dimension + 1)
    heard = dict(zip([key for key, *_ in sent], signals["confidence"].tolist(), strict=True))
    assert heard == {b"i1": 5.0, b"i4": 2.0}
    assert np.array_equal(signals["vector"][0], wanted)


def test_items_are_renewed_with_their_biases() -> None:
    """As the new model trained them, under a newer version; what a replica loads has the publisher's checksum."""
    view = items(POLICY, 3, K + 1)
    view.others.update({"i0": 9, "gone": 4})
    step = ItemStep(explicit(version="m2"), view, ITEM_TOPICS, encoding="json", source="test", founding=False)
    keys = [b"i0", b"i1", b"i2", b"gone"]
    effects = step.renew(keys, [None] * 4, 0)
    sent = {key: value for key, value, _, _ in effects.sends[ITEM_TOPICS.item_factors, 0]}
    assert sent.pop(b"gone") is None
    told = {name: msgspec.json.decode(value or b"", type=FactorRecord) for name, value in sent.items()}
    for name, one in told.items():
        assert name is not None
        assert np.array_equal(row_of(one), view.space.vectors[view.space.index_of(name.decode())])
        assert len(one.vector) == one.dimension == K
    fresh = Items(dimension=K + 1, ridge=Ridge(1.0), item_key=bytes.fromhex("0f" * 16), partitions=2)
    replica = ItemReplica(fresh, "m2")
    replica.base(0, [FakeRecord(key, value, at) for at, (key, value) in enumerate(sent.items())], 3)
    assert fresh.sha256() == items_sha256(view.space.ids, view.space.vectors)


def test_ratings_are_not_sampled_for_the_judge() -> None:
    """They are not ranked."""
    view = items(POLICY)
    reader = Reader(POLICY, tenant=None, max_bytes=65_536, invalid_items=view.invalid)
    more: dict[str, Any] = {"solver": "cg", "tolerance": 1e-6, "encoding": "json", "source": "test"}
    step = UserStep(explicit(), view, TOPICS, reader, sample=1.0, **more)
    [effects] = run(step, [rate(0, "i1", 5.0)], [], {})
    assert not effects.sampled


def test_the_audit_solves_ratings_anew() -> None:
    """No error in what was just published, and one is seen."""
    view, rows = items(POLICY), dict[bytes, bytes]()
    step = user_step(view)
    run(step, [rate(0, "i1", 5.0), rate(1, "i4", 2.0)], [], rows)
    assert parity_error(rows[b"ann"], view, step._generation) == 0.0
    shape = step._generation.shape
    wrong = decode_user_rows([rows[b"ann"]], shape)
    wrong.vector[0, -1] += 1.0
    error = parity_error(encode_user_rows(wrong)[0], view, step._generation)
    assert error is not None
    assert error > 0.1


def test_what_is_foretold_of_a_rated_item_comes_nearer() -> None:
    """Rounds of the same ratings: the error of user and item together falls."""
    view, rows = items(POLICY), dict[bytes, bytes]()
    step, item, errors = user_step(view), item_step(view), []
    replica, item_rows = ItemReplica(view, "m1"), dict[bytes, bytes]()
    for turn in range(6):
        [effects] = run(step, [rate(turn, "i1", 5.0, timestamp=NOW + turn)], [], rows)
        factor = published(effects)[0]
        row = row_of(factor).astype(np.float64)
        one = view.space.vectors[view.space.index_of("i1")].astype(np.float64)
        errors.append(abs(5.0 - MEAN - row[-1] - one[-1] - row[:-1] @ one[:-1]))
        [(key, value, _, _)] = effects.sends[TOPICS.item_signals, view.of("i1")[2]]
        batch = item.read([FakeRecord(key, value, turn)], 0)
        moved = item.apply(batch, [item_rows.get(key) for key in batch.keys])
        item_rows.update(moved.rows)
        sent = moved.sends[ITEM_TOPICS.item_factors, 0]
        replica.factors(0, [FakeRecord(key, value, turn) for key, value, _, _ in sent], turn + 1)
    assert all(after < before for before, after in pairwise(errors))


def test_a_record_without_bias_is_refused_by_an_explicit_replica_and_the_other_way_round() -> None:
    """Spaces never mix."""
    plain = {"id": "i1", "kind": "item", "dimension": K, "model_version": "m1", "version": 9, "events": 0}
    rest = {"event_time": 0, "items_epoch": []}
    with_bias = orjson.dumps({**plain, **rest, "vector": [1.0] * K, "bias": 0.5})
    without = orjson.dumps({**plain, **rest, "vector": [1.0] * K})
    for view, value, refused in (
        (items(POLICY), with_bias, 0),
        (items(POLICY), without, 1),
        (items(Policy(), dimension=K), with_bias, 1),
        (items(Policy(), dimension=K), without, 0),
    ):
        replica = ItemReplica(view, "m1")
        replica.factors(0, [FakeRecord(b"i1", value, 0)], 1)
        assert replica.refused == refused
