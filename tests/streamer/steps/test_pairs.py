"""Signals of BPR pairs: two owners, one event, the same bytes at every replay."""

from __future__ import annotations

import numpy as np

from schemas.layouts import decode_signals
from schemas.records import Policy
from streamer.events.hashes import partition
from streamer.steps.items import Items
from streamer.steps.user import UserStep
from tests.streamer.steps.world import TOPICS, event, items, record, run, user_step

POLICY = Policy(sgd_objective="bpr", history_capacity=8, keys_capacity=8)
Sent = list[tuple[int, bytes, bytes]]


def sent(step: UserStep, bodies: list[dict[str, object]], cuts: list[int]) -> Sent:
    """(Partition, item, signal) of these events."""
    records = [record(at, body) for at, body in enumerate(bodies)]
    return [
        (target[1], key or b"", value or b"")
        for effects in run(step, records, cuts, {})
        for target, ones in effects.sends.items()
        if target[0] == TOPICS.item_signals
        for key, value, _, _ in ones
    ]


def clicks(*chosen: str) -> list[dict[str, object]]:
    return [event(request_id=f"r{at}", user_id="ann", item_id=item) for at, item in enumerate(chosen)]


def read(signals: Sent, view: Items) -> dict[float, np.ndarray]:
    """The chosen items' signals (1.0) and the drawn ones' (-1.0)."""
    rows = decode_signals([value for _, _, value in signals], dimension=view.space.dimension, pair=True)
    return {sign: rows[rows["sign"] == sign] for sign in (1.0, -1.0)}


def test_each_item_of_the_pair_has_a_signal_at_its_own_owner() -> None:
    """With the score of the other, by the vectors that the user's worker has."""
    view = items(POLICY)
    signals = sent(user_step(POLICY, view=view), clicks("i1"), [])
    assert len(signals) == 2
    assert [number for number, _, _ in signals] == [partition(key, 2) for _, key, _ in signals]
    by_sign = read(signals, view)
    chosen, drawn = by_sign[1.0][0], by_sign[-1.0][0]
    other = next(key.decode() for _, key, _ in signals if key != b"i1")
    vector = chosen["vector"].astype(float)
    assert np.array_equal(chosen["vector"], drawn["vector"])
    assert np.isclose(chosen["other"], vector @ view.space.vectors[view.space.index_of(other)], rtol=1e-5)
    assert np.isclose(drawn["other"], vector @ view.space.vectors[1], rtol=1e-5)
    assert chosen["confidence"] == drawn["confidence"]


def test_a_replay_draws_the_same() -> None:
    """Seeded by the event's request id: the same records and rows give the same bytes, other requests other pairs."""
    bodies = clicks(*(f"i{at % 5}" for at in range(12)))
    for cuts in ([], [3, 4, 9]):
        assert sent(user_step(POLICY), bodies, cuts) == sent(user_step(POLICY, fast=False), bodies, cuts)
    whole = sent(user_step(POLICY), bodies, [])
    other = [body | {"request_id": f"x{at}"} for at, body in enumerate(bodies)]
    assert sorted(key for _, key, _ in sent(user_step(POLICY), other, [])) != sorted(key for _, key, _ in whole)


def test_what_the_user_has_had_is_never_drawn() -> None:
    """Nor the event's own item; a user who has had everything makes no pair."""
    view = items(POLICY, count=4)
    signals = sent(user_step(POLICY, view=view), clicks("i0", "i1", "i2"), [])
    by_sign = read(signals, view)
    assert (len(by_sign[1.0]), len(by_sign[-1.0])) == (3, 3)
    assert {key for _, key, value in signals if len(read([(0, key, value)], view)[-1.0])} == {b"i3"}
    alone = items(POLICY, count=2)
    by_sign = read(sent(user_step(POLICY, view=alone), clicks("i0", "i1"), []), alone)
    assert len(by_sign[-1.0]) == 0
    assert by_sign[1.0]["other"].tolist() == [0.0, 0.0]


def test_an_unknown_item_makes_no_pair_and_a_new_one_is_never_drawn() -> None:
    """Its signal still feeds its reservoir; the catalogue to draw from stays the generation's."""
    view = items(POLICY, count=2)
    by_sign = read(sent(user_step(POLICY, view=view), clicks("new"), []), view)
    assert (len(by_sign[1.0]), len(by_sign[-1.0])) == (1, 0)
    view.put(["late"], [1], np.ones((1, 8), np.float32))
    signals = sent(user_step(POLICY, view=view), clicks("i0", "i1", "late"), [])
    assert {key for _, key, _ in signals} == {b"i0", b"i1", b"late"}
    reloaded = items(POLICY, count=2)
    reloaded.put(["late"], [3], np.ones((1, 8), np.float32))
    reloaded.folded.add("late")
    reloaded.settle()
    assert [reloaded.space.ids[at] for at in reloaded.frozen.tolist()] == ["i0", "i1"]
