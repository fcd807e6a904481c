"""Items that the generation does not have: folded in once enough users chose them, under a cap, then learnt."""

from __future__ import annotations

from itertools import count

import msgspec
import numpy as np
import pytest

from schemas.layouts import FOLDED_KEY, LayoutError, decode_folded, decode_item_row, encode_folded, encode_signals
from schemas.records import RESERVOIR, FactorRecord, Manifest, Policy
from streamer.events.hashes import generation_id
from streamer.factors.newcomer import fold_in, user_side
from streamer.steps.item import ItemStep
from streamer.steps.items import Items
from tests.streamer.steps.test_item_step import ITEM_TOPICS, K, apply, published
from tests.streamer.steps.world import NOW, TOPICS, FakeRecord, event, items, manifest, record, run, user_step

OFFSETS = count()
COUNTS = {"items": 20, "events": 200}


def made(policy: Policy) -> Manifest:
    """With the Gramian of forty users, who gave each item ten events."""
    users = np.random.default_rng(2).standard_normal((40, K))
    return msgspec.structs.replace(
        manifest(policy, K),
        user_gramian=(users.T @ users)[np.triu_indices(K)].tolist(),
        item_partitions=2,
        counts=COUNTS,
    )


def step_of(policy: Policy, view: Items | None = None) -> ItemStep:
    return ItemStep(made(policy), items(policy) if view is None else view, ITEM_TOPICS, encoding="json", source="test")


def chosen(item: str, *users: int, seed: int = 0, model: str = "m1", sign: float | None = None) -> list[FakeRecord]:
    """One signal a user on an item; of a pair with a ``sign``, below 0 where the item was only drawn."""
    draw = np.random.default_rng([seed, *users])
    values = encode_signals(
        confidence=np.full(len(users), 4.0),
        event_time=np.full(len(users), NOW, np.int64),
        user=np.array(users, np.uint64),
        generation=generation_id(model),
        vector=draw.standard_normal((len(users), K)).astype(np.float32),
        pair=None if sign is None else (np.zeros(len(users)), np.full(len(users), sign)),
    )
    return [FakeRecord(item.encode(), value, next(OFFSETS)) for value in values]


def test_the_third_user_brings_it_in_with_version_1() -> None:
    """Not the third event: users count, and each with the newest vector."""
    policy, rows = Policy(), dict[bytes, bytes]()
    step = step_of(policy)
    assert published(apply(step, chosen("new", 1, 1, 1, 2), rows)) == []
    effects = apply(step, chosen("new", 3), rows)
    [record] = published(effects)
    assert (record.id, record.version, record.events, record.basis) == ("new", 1, 5, "history")
    assert effects.facts["items_folded"] == 1
    row = decode_item_row(rows[b"new"], dimension=K)
    side = user_side(made(policy))
    assert side is not None
    assert row.reservoir is not None
    assert row.reservoir["user"].tolist() == [1, 2, 3]
    assert np.array_equal(row.vector, fold_in(side, row.reservoir["vector"], row.reservoir["confidence"]))
    assert decode_folded(rows[FOLDED_KEY], generation_id("m1")) == 1


def test_it_is_solved_anew_until_the_reservoir_is_full_and_moves_from_then_on() -> None:
    """The last fold-in counts every user of the reservoir, which is let go then."""
    policy, rows = Policy(sgd_rate=0.05, sgd_pull=1.0), dict[bytes, bytes]()
    step = step_of(policy)
    records = chosen("new", *range(1, RESERVOIR + 1))
    apply(step, records[:-1], rows)
    assert decode_item_row(rows[b"new"], dimension=K).reservoir is not None
    apply(step, records[-1:], rows)
    full = decode_item_row(rows[b"new"], dimension=K)
    assert full.reservoir is None
    assert full.origin is not None
    assert np.array_equal(full.vector, full.origin)
    [record] = published(apply(step, chosen("new", 99), rows))
    moved = decode_item_row(rows[b"new"], dimension=K)
    assert (record.version, record.basis, moved.folded) == (3, "history", True)
    assert 0 < np.linalg.norm(moved.vector - full.vector) <= policy.sgd_clip
    assert moved.origin is not None
    assert np.array_equal(moved.origin, full.origin)


def test_who_drew_it_says_nothing_of_an_item_that_is_still_solved_from_its_users() -> None:
    """A pair's other half is no user of the item: its reservoir and vector stay, before its fold-in and after."""
    policy, rows = Policy(sgd_objective="bpr"), dict[bytes, bytes]()
    step = step_of(policy)
    apply(step, chosen("new", 1, 2, sign=1.0), rows)
    for known, user in ((False, 8), (True, 9)):
        before = decode_item_row(rows[b"new"], dimension=K)
        assert (before.known, before.reservoir is None) == (known, False)
        apply(step, chosen("new", user, sign=-1.0), rows)
        after = decode_item_row(rows[b"new"], dimension=K)
        assert before.reservoir is not None
        assert after.reservoir is not None
        assert after.reservoir.tobytes() == before.reservoir.tobytes()
        assert (after.vector.tobytes(), after.known) == (before.vector.tobytes(), known)
        assert (after.events, after.source_next > before.source_next) == (before.events, True)
        apply(step, chosen("new", 3, sign=1.0), rows)


def test_users_whose_histories_hold_it_are_solved_with_it_at_their_next_event() -> None:
    """What the item's owner publishes reaches the users' workers like any item vector."""
    policy, rows, user_rows = Policy(), dict[bytes, bytes](), dict[bytes, bytes]()
    view = items(policy)
    users, owner = user_step(policy, view=view), step_of(policy, view)
    bodies = [event(request_id=f"r{n}", user_id=f"u{n}", item_id=item) for n in range(3) for item in ("i1", "new")]
    bodies = [body | {"request_id": f"{body['request_id']}{at}"} for at, body in enumerate(bodies)]
    [effects] = run(users, [record(at, body) for at, body in enumerate(bodies)], [], user_rows)
    sent = [one for target, ones in effects.sends.items() if target[0] == TOPICS.item_signals for one in ones]
    received = [FakeRecord(key, value, at) for at, (key, value, _, _) in enumerate(sent) if key == b"new"]
    [came] = published(apply(owner, received, rows))
    before, without = view.space.size, _vector_after(policy, view, dict(user_rows))
    view.put([came.id], [came.version], np.array([came.vector], np.float32))
    assert view.space.size == before + 1
    assert _vector_after(policy, view, dict(user_rows)) != without


def _vector_after(policy: Policy, view: Items, rows: dict[bytes, bytes]) -> list[float]:
    """Of u0, after one more event."""
    body = event(request_id="last", user_id="u0", item_id="i2")
    [effects] = run(user_step(policy, view=view), [record(100, body)], [], rows)
    [(_, value, _, _)] = effects.sends[TOPICS.user_factors, 0]
    return msgspec.json.decode(value or b"", type=FactorRecord).vector


def test_hostile_ids_end_at_the_cap() -> None:
    """Each partition has its share; what came in goes on, what did not can wait for the next generation."""
    policy, rows = Policy(new_items_cap=5), dict[bytes, bytes]()
    step, entered, capped = step_of(policy), 0.0, 0.0
    for number in range(8):
        effects = apply(step, chosen(f"new{number}", 1, 2, 3), rows)
        entered, capped = entered + effects.facts["items_folded"], capped + effects.facts["signals_capped"]
    assert (entered, capped) == (3, 5)  # half of five, rounded up
    assert published(apply(step, chosen("new0", 4), rows))
    again = step_of(policy)
    assert published(apply(again, chosen("new7", 4, 5), rows)) == []
    other = msgspec.structs.replace(made(policy), model_version="m2")
    assert decode_folded(rows[FOLDED_KEY], generation_id(other.model_version)) == 0


def test_none_comes_in_without_the_users_gramian_or_with_a_cap_of_0() -> None:
    """A manifest from before it had one; an operator who wants none."""
    for step in (
        step_of(Policy(new_items_cap=0)),
        ItemStep(manifest(Policy(), K), items(Policy()), ITEM_TOPICS, encoding="json", source="test"),
    ):
        assert published(apply(step, chosen("new", 1, 2, 3, 4), {})) == []


def test_the_users_of_a_young_item_stay_behind_in_the_old_space() -> None:
    """A fold-in from vectors of two spaces would be of neither; their rows tell of them again when they are renewed."""
    policy, rows = Policy(), dict[bytes, bytes]()
    apply(step_of(policy), chosen("new", 1, 2), rows)
    other = msgspec.structs.replace(made(policy), model_version="m2")
    step = ItemStep(other, items(policy), ITEM_TOPICS, encoding="json", source="test")
    effects = apply(step, chosen("new", 3, model="m2"), rows)
    row = decode_item_row(rows[b"new"], dimension=K)
    assert row.reservoir is not None
    assert row.reservoir["user"].tolist() == [3]
    assert (row.events, published(effects)) == (3, [])


def test_what_is_not_finite_never_reaches_a_reservoir() -> None:
    """One bad vector would make every later fold-in of the item bad."""
    rows = dict[bytes, bytes]()
    bad = chosen("new", 7)[0]
    value = (bad.value or b"")[:-4] + np.float32(np.nan).tobytes()
    apply(step_of(Policy()), [FakeRecord(b"new", value, 0), *chosen("new", 1)], rows)
    row = decode_item_row(rows[b"new"], dimension=K)
    assert row.reservoir is not None
    assert (row.events, row.reservoir["user"].tolist()) == (2, [1])


def test_the_count_of_new_items_has_a_layout_of_its_own() -> None:
    """Damage is found."""
    data = encode_folded(9, 4)
    assert (decode_folded(data, 9), decode_folded(data, 8), decode_folded(None, 9)) == (4, 0, 0)
    with pytest.raises(LayoutError):
        decode_folded(data[:-1], 9)
    with pytest.raises(LayoutError):
        decode_folded(b"\x02" + data[1:], 9)


def test_a_new_item_becomes_as_popular_as_its_events_make_it() -> None:
    """However they are cut: with ten times a trained item's mean of events it moves like a trained one of that."""
    popularity = set[float]()
    for cut in (1, 7, 100):
        step, rows = step_of(Policy(sgd_balance=0.5)), dict[bytes, bytes]()
        records = chosen("new", *range(1, 101))
        for low in range(0, 100, cut):
            apply(step, records[low : low + cut], rows)
        popularity.add(decode_item_row(rows[b"new"], dimension=K).popularity)
    [found] = popularity
    assert found == pytest.approx(10.0)
