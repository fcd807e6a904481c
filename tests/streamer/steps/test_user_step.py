"""The user step: the rules of the contract, one record or a few at a time."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.layouts import RowShape, UserRows, decode_user_rows
from schemas.outcomes import Outcome, Reason
from schemas.records import DAY_MS, FactorRecord, Policy
from streamer.steps.compiled import available
from tests.streamer.steps.world import NOW, TOPICS, event, items, manifest, record, run, user_step

POLICY = Policy(history_capacity=6, keys_capacity=4, suppress_capacity=3)


def rows_of(rows: dict[bytes, bytes], policy: Policy = POLICY) -> UserRows:
    return decode_user_rows(
        [rows[key] for key in sorted(rows)], RowShape(8, policy.history_capacity, policy.keys_capacity, 2)
    )


def outcomes(effects: list[Any]) -> Counter[Any]:
    return sum((one.outcomes for one in effects), Counter())


def published(effects: list[Any]) -> list[FactorRecord]:
    values = [value for one in effects for _, value, _, _ in one.sends.get((TOPICS.user_factors, 0), [])]
    return [msgspec.json.decode(value, type=FactorRecord) for value in values]


EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.sampled_from(["ann", "bob", "cem"]),
            "item_id": st.sampled_from([f"i{n}" for n in range(9)] + ["unknown-1", "unknown-2"]),
            "event_type": st.sampled_from(["click", "view", "purchase", "hide", "return", "report"]),
            "request_id": st.sampled_from([f"r{n}" for n in range(12)]),
            "timestamp": st.integers(NOW - 9 * DAY_MS, NOW + 1000),
            "value": st.sampled_from([1.0, 2.5]),
        }
    ),
    max_size=40,
)


PATHS = [
    pytest.param("cholesky", False, id="cholesky"),
    pytest.param("cg", False, id="numpy"),
    pytest.param("cg", True, id="compiled", marks=pytest.mark.skipif(not available(), reason="numba is not installed")),
]


@pytest.mark.parametrize(("solver", "fast"), PATHS)
@given(bodies=EVENTS, cuts=st.lists(st.integers(1, 39), max_size=6))
@settings(max_examples=80, deadline=None)
def test_rows_do_not_depend_on_how_events_are_cut_into_batches(
    solver: Literal["cg", "cholesky"], fast: bool, bodies: list[Any], cuts: list[int]
) -> None:
    """Histories, keys, counts and (by Cholesky) vectors are the same bytes; only the revisions differ."""
    records = [record(offset, body) for offset, body in enumerate(bodies)]
    whole: dict[bytes, bytes] = {}
    parts: dict[bytes, bytes] = {}
    first = run(user_step(POLICY, solver, fast=fast), records, [], whole)
    second = run(user_step(POLICY, solver, fast=fast), records, cuts, parts)
    assert outcomes(first) == outcomes(second)
    assert sum(outcomes(first).values()) == len(records)
    assert whole.keys() == parts.keys()
    if whole:
        one, other = rows_of(whole), rows_of(parts)
        one.head["version"] = other.head["version"] = 0
        if solver == "cg":
            error = np.linalg.norm(one.vector - other.vector, axis=1) / np.linalg.norm(one.vector, axis=1)
            assert error.max() <= 1e-5
            other.vector[:] = one.vector
        for column in ("head", "vector", "item", "time", "strength", "request", "fingerprint", "key_time"):
            assert getattr(one, column).tobytes() == getattr(other, column).tobytes(), column
        assert one.extras == other.extras


@given(EVENTS)
@settings(max_examples=40, deadline=None)
def test_the_batched_solver_agrees_with_cholesky(bodies: list[Any]) -> None:
    """Within 1e-5 relative, as promised."""
    records = [record(offset, body) for offset, body in enumerate(bodies)]
    exact: dict[bytes, bytes] = {}
    fast: dict[bytes, bytes] = {}
    run(user_step(POLICY), records, [5], exact)
    run(user_step(POLICY, "cg"), records, [5], fast)
    if exact:
        one, other = rows_of(exact).vector, rows_of(fast).vector
        error = np.linalg.norm(one - other, axis=1) / np.linalg.norm(one, axis=1)
        assert error.max() <= 1e-5


def test_a_replay_of_the_same_records_has_no_effect() -> None:
    """Within the window of keys every record is a duplicate the second time."""
    rows: dict[bytes, bytes] = {}
    records = [record(n, event(request_id=f"r{n}", item_id=f"i{n}")) for n in range(4)]
    step = user_step(POLICY)
    run(step, records, [], rows)
    before = dict(rows)
    again = run(step, [record(n + 9, event(request_id=f"r{n}", item_id=f"i{n}")) for n in range(4)], [], rows)
    assert rows == before
    assert outcomes(again) == {(Outcome.DUPLICATE, None): 4}
    assert published(again) == []


def test_the_same_request_with_another_payload_is_a_conflict() -> None:
    """The first wins; the second goes to the dead letters with its original bytes."""
    rows: dict[bytes, bytes] = {}
    other = record(1, event(item_id="i2"))
    effects = run(user_step(POLICY), [record(0, event()), other], [], rows)
    assert outcomes(effects) == {(Outcome.APPLIED, None): 1, (Outcome.CONFLICT, None): 1}
    [(key, value, timestamp, headers)] = effects[0].sends[TOPICS.dead_letters, 0]
    assert (key, value, timestamp) == (other.key, other.value, other.timestamp)
    assert dict(headers)["factors.reason"] == b"conflict"
    assert dict(headers)["__streams.errors.offset"] == b"1"


def test_a_request_is_a_duplicate_only_within_one_user() -> None:
    """Two users may use the same request id."""
    rows: dict[bytes, bytes] = {}
    effects = run(user_step(POLICY), [record(0, event()), record(1, event(user_id="bob"))], [], rows)
    assert outcomes(effects) == {(Outcome.APPLIED, None): 2}


def test_keys_beyond_the_window_of_event_time_are_forgotten() -> None:
    """What falls outside the window is applied again; the window is documented."""
    policy = Policy(history_capacity=6, keys_capacity=4, keys_window_ms=1000)
    rows: dict[bytes, bytes] = {}
    records = [
        record(0, event(timestamp=NOW - 60_000)),
        record(1, event(request_id="r2", timestamp=NOW)),
        record(2, event(timestamp=NOW - 60_000)),
    ]
    assert outcomes(run(user_step(policy), records, [], rows)) == {(Outcome.APPLIED, None): 3}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"timestamp": NOW - 91 * DAY_MS}, (Outcome.FILTERED, Reason.OUTSIDE_WINDOW)),
        ({"timestamp": NOW - 8 * DAY_MS}, (Outcome.LATE, None)),
        ({"timestamp": NOW - 6 * DAY_MS}, (Outcome.APPLIED, None)),
        ({"timestamp": NOW + 6 * 60_000}, (Outcome.DEAD_LETTER, Reason.FUTURE)),
        ({"event_type": "hide"}, (Outcome.SUPPRESSED, None)),
        ({"event_type": "report"}, (Outcome.FILTERED, Reason.SET_ASIDE)),
    ],
)
def test_times_are_judged_by_the_brokers_clock(changes: dict[str, Any], expected: Any) -> None:
    """The record's broker timestamp decides, so that a replay decides alike."""
    effects = run(user_step(POLICY), [record(0, event(**changes))], [], {})
    assert outcomes(effects) == {expected: 1}


def test_a_user_of_another_partition_is_refused_when_the_row_would_be_created() -> None:
    """A producer with another partitioner would split a user in two."""
    step = user_step(POLICY)
    step._topics = TOPICS.__class__("t.interactions", "t.user-factors", "t.item-signals", "t.dead-letters", 64)
    rows: dict[bytes, bytes] = {}
    effects = run(step, [record(0, event(user_id="zoe"))], [], rows)
    assert outcomes(effects) == {(Outcome.DEAD_LETTER, Reason.WRONG_PARTITION): 1}
    assert rows == {}
    robot = run(step, [record(0, event(user_id="zoe", traffic="bot"))], [], rows)
    assert outcomes(robot) == {(Outcome.DEAD_LETTER, Reason.WRONG_PARTITION): 1}
    run(user_step(POLICY), [record(0, event(user_id="zoe"))], [], rows)
    with_row = run(step, [record(1, event(user_id="zoe", request_id="r2"))], [], rows)
    assert outcomes(with_row) == {(Outcome.APPLIED, None): 1}
    robot = run(step, [record(2, event(user_id="zoe", traffic="bot"))], [], rows)
    assert outcomes(robot) == {(Outcome.FILTERED, Reason.BOT): 1}


def test_an_unknown_user_starts_as_the_average_user() -> None:
    """A first event on an unknown item gives the average; the first known item makes the user itself."""
    rows: dict[bytes, bytes] = {}
    step = user_step(POLICY)
    [cold] = published(run(step, [record(0, event(item_id="never-seen"))], [], rows))
    assert cold.basis == "average"
    assert cold.vector == manifest(POLICY).average_user
    assert (cold.version, cold.events) == (1, 1)
    [own] = published(run(step, [record(1, event(request_id="r2"))], [], rows))
    assert own.basis == "history"
    assert own.vector != cold.vector
    assert (own.version, own.events) == (2, 2)


def test_a_first_event_that_is_a_dislike_pulls_towards_nothing() -> None:
    """Oryx gives a new user a positive vector for an item that the user dislikes; here no taste comes of it."""
    [only] = published(run(user_step(POLICY), [record(0, event(event_type="dislike"))], [], {}))
    assert only.vector == manifest(POLICY).average_user
    assert only.suppressed == ["i1"]
    assert only.events == 0


def test_two_events_of_one_batch_both_count() -> None:
    """Oryx keeps one click of a session that falls into one micro-batch; here the batch equals the sequence."""
    step = user_step(POLICY)
    together: dict[bytes, bytes] = {}
    run(step, [record(0, event()), record(1, event(request_id="r2", item_id="i2"))], [], together)
    alone: dict[bytes, bytes] = {}
    run(step, [record(0, event())], [], alone)
    assert int(rows_of(together).head["entries"][0]) == 2
    assert rows_of(together).vector.tobytes() != rows_of(alone).vector.tobytes()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2), (0, 2, 1), (2, 0, 1)])
def test_suppression_does_not_depend_on_the_order_of_arrival(order: tuple[int, ...]) -> None:
    """Click, then return: suppressed and void. A later positive lifts it, whenever it arrives."""
    bodies = [
        event(request_id="a", timestamp=NOW - 3000),
        event(request_id="b", timestamp=NOW - 2000, event_type="hide"),
        event(request_id="c", timestamp=NOW - 1000, event_type="purchase"),
    ]
    rows: dict[bytes, bytes] = {}
    effects = run(user_step(POLICY), [record(n, bodies[at]) for n, at in enumerate(order)], [1, 2], rows)
    assert published(effects)[-1].suppressed == []
    found = rows_of(rows)
    assert int(found.head["entries"][0]) == 1
    assert found.strength[0, 0] == pytest.approx(6.0, rel=1e-6)


def test_a_return_voids_older_strength() -> None:
    """The purchase counts no more, also if it arrives after its return."""
    purchase = event(request_id="a", timestamp=NOW - 2000, event_type="purchase")
    back = event(request_id="b", timestamp=NOW - 1000, event_type="return")
    for first, second in ((purchase, back), (back, purchase)):
        rows: dict[bytes, bytes] = {}
        effects = run(user_step(POLICY), [record(0, first), record(1, second)], [1], rows)
        assert int(rows_of(rows).head["entries"][0]) == 0
        assert published(effects)[-1].suppressed == ["i1"]
        assert published(effects)[-1].vector == manifest(POLICY).average_user


def test_caps_bound_what_one_user_and_one_item_can_do() -> None:
    """Beyond the cap an event is filtered, and its key is free."""
    policy = Policy(history_capacity=6, keys_capacity=8, cap_item_strength=2.0, cap_user_events_per_day=3)
    bodies = [event(request_id=f"r{n}") for n in range(3)] + [
        event(request_id=f"s{n}", item_id=f"i{n + 2}") for n in range(3)
    ]
    effects = run(user_step(policy), [record(n, body) for n, body in enumerate(bodies)], [2, 4], {})
    assert outcomes(effects) == {(Outcome.APPLIED, None): 3, (Outcome.FILTERED, Reason.CAPPED): 3}


@pytest.mark.parametrize("order", [("buy", "back"), ("back", "buy")])
def test_a_returned_purchase_has_used_up_its_days_cap(order: tuple[str, ...]) -> None:
    """But not its item's strength: that is void, whichever of both comes first."""
    policy = msgspec.structs.replace(POLICY, cap_item_strength=4.0, cap_user_events_per_day=2)
    acts = {
        "buy": event(request_id="buy", event_type="purchase", timestamp=NOW - 2),
        "back": event(request_id="back", event_type="return", timestamp=NOW - 1),
    }
    later = [event(request_id="again"), event(request_id="too much", item_id="i2")]
    rows: dict[bytes, bytes] = {}
    bodies = [*(acts[name] for name in order), *later]
    effects = run(user_step(policy), [record(n, body) for n, body in enumerate(bodies)], [1, 2, 3], rows)
    assert [list(one.outcomes) for one in effects[2:]] == [
        [(Outcome.APPLIED, None)],
        [(Outcome.FILTERED, Reason.CAPPED)],
    ]
    assert (rows_of(rows).head["events"][0], rows_of(rows).head["cap_count"][0]) == (2, 2)


def test_an_invalid_item_is_filtered() -> None:
    """Withdrawn and banned items take no events."""
    view = items(POLICY)
    view.invalid.add("i1")
    effects = run(user_step(POLICY, view=view), [record(0, event())], [], {})
    assert outcomes(effects) == {(Outcome.FILTERED, Reason.INVALID_ITEM): 1}


def test_every_applied_event_sends_one_signal_to_its_items_partition() -> None:
    """Suppressed, duplicate and rejected records send none."""
    bodies = [
        event(),
        event(),
        event(request_id="r2", event_type="hide"),
        event(request_id="r3", item_id="i9"),
    ]
    [effects] = run(user_step(POLICY), [record(n, body) for n, body in enumerate(bodies)], [], {})
    signals = {target: records for target, records in effects.sends.items() if target[0] == TOPICS.item_signals}
    keys = sorted(key for records in signals.values() for key, *_ in records)
    assert keys == [b"i1", b"i9"]
    assert effects.facts["signals"] == 2


@pytest.mark.parametrize("cuts", [[], [1, 2, 3]])
@pytest.mark.parametrize("objective", ["pointwise", "bpr"])
def test_nobody_learns_from_a_purchase_that_was_returned_before_it_came(objective: Any, cuts: list[int]) -> None:
    """It counts as applied, and reaches neither the item, nor what is popular, nor the judge."""
    policy = msgspec.structs.replace(POLICY, sgd_objective=objective)
    bodies = [
        event(request_id="1", item_id="i1", event_type="return"),
        event(request_id="2", item_id="i1", event_type="purchase", timestamp=NOW - 1000),
        event(request_id="3", item_id="i1", event_type="purchase", timestamp=NOW),
        event(request_id="4", item_id="i1", event_type="click", timestamp=NOW + 1),
    ]
    rows: dict[bytes, bytes] = {}
    step = user_step(policy, sample=1.0)
    effects = run(step, [record(n, body) for n, body in enumerate(bodies)], cuts, rows)
    assert outcomes(effects) == {(Outcome.SUPPRESSED, None): 1, (Outcome.APPLIED, None): 3}
    assert int(rows_of(rows).head["events"][0]) == 3
    assert sum(one.facts.get("signals", 0) for one in effects) == 1
    sent = [
        key for one in effects for to, sends in one.sends.items() if to[0] == TOPICS.item_signals for key, *_ in sends
    ]
    assert sent.count(b"i1") == 1
    assert [number for one in effects for number in one.sampled[0].applied.tolist()] == [1]
    assert [kind for one in effects for kind in one.sampled[0].types] == ["return", "click"]
    assert sum(len(one.sampled[0].trials or ()) for one in effects) == 1


def test_headers_are_cloudevents_and_name_the_source() -> None:
    """Binary mode, and the traceparent of the newest event."""
    traced = record(5, event(), headers=(("traceparent", b"00-abc"),))
    [effects] = run(user_step(POLICY), [traced], [], {})
    [(key, _, _, headers)] = effects.sends[TOPICS.user_factors, 0]
    found = dict(headers)
    assert key == b"ann"
    assert found["ce_id"] == b"ann/1"
    assert found["ce_specversion"] == b"1.0"
    assert found["factors.source"] == b"t.interactions/0/5"
    assert found["traceparent"] == b"00-abc"
    assert found["content-type"] == b"application/json"


def test_a_vector_that_is_not_finite_never_leaves() -> None:
    """A poisoned item leaves the last good vector in place and is counted."""
    view = items(POLICY)
    step = user_step(POLICY, view=view)
    rows: dict[bytes, bytes] = {}
    [good] = published(run(step, [record(0, event())], [], rows))
    view.space.vectors[2] = np.float32("nan")
    with np.errstate(all="ignore"):
        effects = run(step, [record(1, event(request_id="r2", item_id="i2"))], [], rows)
    [held] = published(effects)
    assert held.vector == good.vector
    assert effects[0].facts["nonfinite"] == 1
