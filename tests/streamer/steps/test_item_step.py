"""The item step: signals move the vectors of their items, once each, towards the users who chose them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from schemas.layouts import decode_item_row, encode_signals
from schemas.records import RESERVOIR, FactorRecord, Policy
from streamer.events.hashes import generation_id
from streamer.steps.effects import Effects
from streamer.steps.item import ItemStep, ItemTopics
from streamer.steps.items import Items
from tests.streamer.steps.world import NOW, TOPICS, FakeRecord, event, items, manifest, record, run, user_step

K = 8
ITEM_TOPICS = ItemTopics(TOPICS.item_signals, "t.item-factors")


def item_step(policy: Policy, view: Items) -> ItemStep:
    return ItemStep(manifest(policy, K), view, ITEM_TOPICS, encoding="json", source="test")


def signals(keys: list[str], vectors: np.ndarray, *, model: str = "m1", first_offset: int = 0) -> list[FakeRecord]:
    values = encode_signals(
        confidence=np.full(len(keys), 4.0),
        event_time=np.full(len(keys), NOW, np.int64),
        user=np.arange(1, len(keys) + 1, dtype=np.uint64),
        generation=generation_id(model),
        vector=vectors.astype(np.float32),
    )
    return [
        FakeRecord(key.encode(), value, first_offset + at)
        for at, (key, value) in enumerate(zip(keys, values, strict=True))
    ]


def apply(step: ItemStep, records: list[FakeRecord], rows: dict[bytes, bytes]) -> Effects:
    batch = step.read(records, 0)
    effects = step.apply(batch, [rows.get(key) for key in batch.keys])
    rows.update(effects.rows)
    return effects


def published(effects: Effects) -> list[FactorRecord]:
    sent = effects.sends.get((ITEM_TOPICS.item_factors, 0), [])
    return [msgspec.json.decode(value or b"", type=FactorRecord) for _, value, _, _ in sent]


def test_an_items_weight_goes_with_every_revision() -> None:
    """What an unobserved pair weighs must survive compaction; weights of 1 are left out."""
    policy, rows = Policy(), dict[bytes, bytes]()
    view = items(policy)
    assert [one.weight for one in published(apply(item_step(policy, view), signals(["i3"], np.ones((1, K))), {}))] == [
        None
    ]
    view.put(["i3"], [2], view.space.vectors[3:4].copy(), [0.1 + 0.2])
    effects = apply(item_step(policy, view), signals(["i3", "i4"], np.ones((2, K))), rows)
    assert {one.id: one.weight for one in published(effects)} == {"i3": 0.1 + 0.2, "i4": 1.0}


def test_a_row_starts_from_the_generations_vector_and_version() -> None:
    """The first revision is one above what the bootstrap published."""
    policy, rows = Policy(), dict[bytes, bytes]()
    view = items(policy)
    effects = apply(item_step(policy, view), signals(["i3", "i3"], np.ones((2, K))), rows)
    [moved] = published(effects)
    assert (moved.id, moved.kind, moved.version, moved.events) == ("i3", "item", 2, 2)
    assert moved.vector != view.space.vectors[3].tolist()
    again = apply(item_step(policy, view), signals(["i3"], np.ones((1, K)), first_offset=2), rows)
    assert [(one.version, one.events) for one in published(again)] == [(3, 3)]


def test_vectors_do_not_depend_on_how_signals_are_cut_into_batches() -> None:
    """Each signal is applied in log order; only revisions differ."""
    policy = Policy()
    draw = np.random.default_rng(3)
    keys = [f"i{number}" for number in draw.integers(0, 4, 60)]
    records = signals(keys, draw.standard_normal((60, K)))
    whole, parts = dict[bytes, bytes](), dict[bytes, bytes]()
    apply(item_step(policy, items(policy)), records, whole)
    for low in range(0, 60, 7):
        apply(item_step(policy, items(policy)), records[low : low + 7], parts)
    for key in whole:
        one, other = decode_item_row(whole[key], dimension=K), decode_item_row(parts[key], dimension=K)
        assert one.vector.tobytes() == other.vector.tobytes()
        assert (one.events, one.event_time, one.source_next) == (other.events, other.event_time, other.source_next)


def test_an_unknown_item_is_recorded_and_not_published() -> None:
    """Its reservoir is bounded and holds each user once, the newest vector."""
    policy, rows = Policy(), dict[bytes, bytes]()
    step = item_step(policy, items(policy))
    records = signals(["new"] * (RESERVOIR + 9), np.arange((RESERVOIR + 9) * K).reshape(-1, K))
    effects = apply(step, records, rows)
    assert published(effects) == []
    assert effects.facts["signals_unknown"] == len(records)
    row = decode_item_row(rows[b"new"], dimension=K)
    assert not row.known
    assert row.events == len(records)
    assert row.reservoir is not None
    assert len(row.reservoir) == RESERVOIR
    assert row.reservoir["user"][-1] == len(records)
    apply(step, signals(["new"], np.zeros((1, K)), first_offset=99), rows)
    again = decode_item_row(rows[b"new"], dimension=K)
    assert again.reservoir is not None
    assert len(np.unique(again.reservoir["user"])) == len(again.reservoir)


def test_signals_of_another_generation_or_size_are_left_out() -> None:
    """Spaces never mix, and a damaged signal poisons nothing."""
    policy, rows = Policy(), dict[bytes, bytes]()
    foreign = signals(["i1"], np.ones((1, K)), model="m0")
    damaged = [FakeRecord(b"i1", b"\x01\x03", 5), FakeRecord(b"i1", None, 6), FakeRecord(None, b"x", 7)]
    effects = apply(item_step(policy, items(policy)), [*foreign, *damaged], rows)
    assert rows == {}
    assert effects.facts["signals_foreign"] == 4


def test_a_signal_that_is_not_finite_moves_nothing() -> None:
    """The old vector stays."""
    policy, rows = Policy(), dict[bytes, bytes]()
    view = items(policy)
    with np.errstate(all="ignore"):
        effects = apply(item_step(policy, view), signals(["i2"], np.full((1, K), np.nan)), rows)
    [held] = published(effects)
    assert held.vector == pytest.approx(view.space.vectors[2].tolist())


def test_popularity_follows_what_an_item_has_had() -> None:
    """The trained one and the events since, in units of a trained item's mean."""
    policy = Policy(sgd_balance=1.0, sgd_rate=1.0, sgd_reg=0.0, sgd_clip=100.0)
    view, rows = items(policy), dict[bytes, bytes]()
    view.popularity["i3"] = 100.0
    made = msgspec.structs.replace(manifest(policy, K), counts={"items": 20, "events": 20})
    step = ItemStep(made, view, ITEM_TOPICS, encoding="json", source="test")
    [one] = published(apply(step, signals(["i3"] * 100, np.zeros((100, K))), rows))
    assert one.popularity == 200.0
    before = decode_item_row(rows[b"i3"], dimension=K).vector
    user = np.full(K, 0.1, np.float32)
    apply(step, signals(["i3"], user[None], first_offset=100), rows)
    moved = decode_item_row(rows[b"i3"], dimension=K).vector.astype(float) - before
    whole = policy.sgd_rate * 4.0 * (1.0 - float(before.astype(float) @ user)) * user
    np.testing.assert_allclose(moved, whole / 201, rtol=1e-3)


def learn(rate: float) -> tuple[float, float]:
    """Stream clicks of planted tastes through both steps; mean cosine of misplaced items to the truth, before, after.

    Items 0 .. 7 of each of K tastes; the last two of each taste start in a random place instead of their taste's.
    """
    policy = Policy(history_capacity=16, keys_capacity=8, sgd_rate=rate, sgd_reg=0.1, ridge=1.0)
    draw = np.random.default_rng(11)
    taste_of = np.repeat(np.arange(K), 8)
    truth = np.eye(K)[taste_of]
    start = truth + draw.normal(0, 0.05, truth.shape)
    misplaced = np.arange(len(truth)) % 8 >= 6
    start[misplaced] = draw.normal(0, 0.35, (int(misplaced.sum()), K))
    view = Items(dimension=K, ridge=policy.ridge, item_key=bytes(16), partitions=2)
    names = [f"i{number}" for number in range(len(truth))]
    view.put(names, [1] * len(names), start.astype(np.float32))
    view.settle()
    users, movers = user_step(policy, "cg", view), item_step(policy, view)
    user_rows, item_rows = dict[bytes, bytes](), dict[bytes, bytes]()
    before = cosine(view.space.vectors[misplaced], truth[misplaced])
    for round_ in range(60):
        bodies = []
        for taste in range(K):
            for number in range(4):
                item = taste * 8 + int(draw.integers(0, 8))
                request, user = f"{round_}-{taste}-{number}", f"u{taste}-{number}"
                bodies.append(event(request_id=request, user_id=user, item_id=f"i{item}"))
        records = [record(1000 * round_ + at, body) for at, body in enumerate(bodies)]
        [effects] = run(users, records, [], user_rows)
        sent = [one for target, ones in effects.sends.items() if target[0] == TOPICS.item_signals for one in ones]
        received = [FakeRecord(key, value, 1000 * round_ + at) for at, (key, value, _, _) in enumerate(sent)]
        moved = published(apply(movers, received, item_rows))
        vectors = np.array([one.vector for one in moved], np.float32)
        view.put([one.id for one in moved], [one.version for one in moved], vectors)
    return before, cosine(view.space.vectors[misplaced], truth[misplaced])


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Mean cosine of rows."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / norms).mean())


def test_item_vectors_move_towards_the_truth() -> None:
    """Items that the batch misplaced come to where the users who choose them are."""
    before, after = learn(0.05)
    assert before < 0.3
    assert after > 0.7
    assert after > before + 0.4


def test_without_a_learning_rate_they_do_not() -> None:
    """The twin that shows the test above can fail."""
    before, after = learn(0.0)
    assert after == pytest.approx(before, abs=1e-6)
