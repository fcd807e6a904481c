"""Whatever arrives in whatever order, a user is what a fresh computation gives: the oracle's, which shares no code.

Corrections (the same item again), deletes (`return`), late events, caps, windows, decay, recency, frequency ridges,
sessions, blends and segments; by the kernel, by numpy, and by the exact solver.
"""

from __future__ import annotations

import json
import random
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.layouts import decode_user_rows
from schemas.records import DAY_MS, FactorRecord, Manifest, Policy
from streamer.steps import compiled
from streamer.steps.parity import parity_error
from streamer.steps.user import UserStep
from tests.oracle.factors import served_otherwise
from tests.oracle.fold import apply_event
from tests.oracle.hashes import generation_id, item_hash
from tests.oracle.rowbytes import UserRow, encode, parse
from tests.oracle.rules import Rules
from tests.oracle.solve import ItemMatrix, solve
from tests.streamer.steps.world import NOW, TOPICS, event, items, manifest, record, run, user_step

K, COUNT = 5, 20
KINDS = ["view", "click", "click", "purchase", "watch_complete", "hide", "dislike", "return"]
SEGMENTS = {"phone": [0.5, -0.5, 1.0, 0.0, 2.0], "desk": [-1.0, 0.25, 0.0, 0.5, 0.125]}

POLICIES = st.builds(
    Policy,
    history_capacity=st.sampled_from([3, 8, 20]),
    keys_capacity=st.sampled_from([4, 64]),
    half_life_ms=st.sampled_from([0, 3_600_000, 30 * DAY_MS]),
    lateness_ms=st.sampled_from([3 * DAY_MS, 7 * DAY_MS]),
    window_ms=st.sampled_from([DAY_MS, 4 * DAY_MS, 90 * DAY_MS]),
    confidence=st.sampled_from(["log", "linear", "raw"]),
    alpha=st.sampled_from([0.5, 5.0]),
    rhs=st.sampled_from(["c", "c-1"]),
    recency_entries=st.sampled_from([0.0, 2.0]),
    ridge=st.sampled_from([0.3, 10.0]),
    ridge_nu=st.sampled_from([0.0, 0.5, 1.0]),
    ridge_alpha0=st.sampled_from([0.0, 0.1]),
    unobserved_power=st.sampled_from([0.0, 0.5]),
    cap_item_strength=st.sampled_from([0.0, 0.0, 4.0]),
    cap_user_events_per_day=st.sampled_from([0, 0, 3]),
    norm_cap=st.sampled_from([0.8, 1000.0]),
    suppress_capacity=st.sampled_from([2, 64]),
    session_weight=st.sampled_from([0.0, 0.0, 0.3, 1.0]),
    session_gap_ms=st.sampled_from([0, 1_800_000, DAY_MS]),
    session_entries=st.sampled_from([1, 4]),
    blend_events=st.sampled_from([0, 0, 5]),
    segment_key=st.sampled_from(["", "", "device"]),
)
PLAIN: dict[str, Any] = {
    "cap_item_strength": 0.0,
    "cap_user_events_per_day": 0,
    "session_weight": 0.0,
    "blend_events": 0,
    "segment_key": "",
}
"""What the kernel takes; the rest goes by numpy."""
EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.sampled_from(["ann", "bob"]),
            "item_id": st.sampled_from([f"i{number}" for number in range(9)] + ["unknown-1", "unknown-2"]),
            "event_type": st.sampled_from(KINDS),
            "timestamp": st.one_of(
                st.integers(NOW - 8 * DAY_MS, NOW), st.integers(NOW - 2 * DAY_MS, NOW), st.just(NOW - 1000)
            ),
            "value": st.sampled_from([1.0, 1.0, 2.5, 1e-3]),
            "context": st.sampled_from([{}, {"device": "phone"}, {"device": "desk"}, {"device": "tv"}]),
        }
    ),
    max_size=30,
)


def world_of(policy: Policy, solver: Literal["cg", "cholesky"], fast: bool) -> tuple[UserStep, Rules, ItemMatrix]:
    """A step, and the oracle's view of the same manifest and items."""
    view = items(policy, count=COUNT, dimension=K)
    weights = np.linspace(0.3, 2.0, COUNT) ** policy.unobserved_power
    view.put([f"i{n}" for n in range(COUNT)], [2] * COUNT, view.space.vectors.copy(), weights.tolist())
    view.settle()
    made = msgspec.structs.replace(
        manifest(policy, K),
        segments=SEGMENTS,
        average_user=[0.0] * K if policy.alpha == 0.5 else [0.25] * K,
        popularity_user=[1.0, 0.0, -1.0, 0.5, 0.75],
    )
    step = user_step(policy, solver, view, fast=fast, made=made)
    return step, rules_of(made), matrix_of(view.space.vectors.copy(), weights, made)


def rules_of(made: Manifest) -> Rules:
    return Rules.of_manifest(msgspec.json.encode(made), partitions=1)


def matrix_of(vectors: Any, weights: Any, made: Manifest) -> ItemMatrix:
    """The rows in the order of the ids, as everybody adds them up."""
    order = sorted(range(COUNT), key=lambda number: f"i{number}")
    exact, weight = vectors[order].astype(np.float64), weights[order]
    key = bytes.fromhex(made.item_key)
    rows = {item_hash(f"i{number}", key): at for at, number in enumerate(order)}
    return ItemMatrix(vectors[order], rows, exact.T @ exact if (weight == 1).all() else (exact.T * weight) @ exact)


def fresh_rows(bodies: list[dict[str, Any]], rules: Rules, *, punctual: bool) -> dict[bytes, UserRow]:
    """Each user's row by the oracle's own fold."""
    rows: dict[bytes, UserRow] = {}
    for offset, body in enumerate(bodies):
        key = body["user_id"].encode()
        row = rows.get(key) or UserRow(np.zeros(K, np.float32), [0, 0])
        if apply_event(row, body, offset, arrival(body, punctual), rules)[0] in ("applied", "suppressed"):
            row.generation = generation_id(rules.model_version)
            rows[key] = row
    return rows


def arrival(body: dict[str, Any], punctual: bool) -> int:
    """The broker's time: of the event itself, or the same for all, so that those of long ago come late."""
    return int(body["timestamp"]) if punctual else NOW


@pytest.mark.parametrize("way", ["kernel", "numpy", "cholesky"])
@given(happened=EVENTS, policy=POLICIES, cuts=st.lists(st.integers(1, 29), max_size=4), punctual=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_user_is_what_a_fresh_computation_gives(
    way: str, happened: list[dict[str, Any]], policy: Policy, cuts: list[int], punctual: bool
) -> None:
    """The row to the byte, the vector to 1e-5 of the exact solve, and the record as the formula has it."""
    if way == "kernel" and not compiled.available():
        pytest.skip("numba is not installed")
    if way == "kernel":
        policy = msgspec.structs.replace(policy, **PLAIN)
    step, rules, matrix = world_of(policy, "cholesky" if way == "cholesky" else "cg", way == "kernel")
    bodies = [event(**body, request_id=f"r{number % 27}") for number, body in enumerate(happened)]
    rows: dict[bytes, bytes] = {}
    records = [record(number, body, timestamp=arrival(body, punctual)) for number, body in enumerate(bodies)]
    done = run(step, records, cuts, rows)
    wanted = fresh_rows(bodies, rules, punctual=punctual)
    assert rows.keys() == wanted.keys()
    last = {key: value for effects in done for key, value, *_ in effects.sends.get((TOPICS.user_factors, 0), [])}
    for key, want in wanted.items():
        got = parse(rows[key], K, policy.history_capacity, policy.keys_capacity)
        want.vector, want.version, want.epochs = got.vector, got.version, got.epochs
        assert encode(want, policy.history_capacity, policy.keys_capacity) == rows[key]
        exact = solve(want, matrix, rules)
        assert np.linalg.norm(got.vector - exact) <= 1e-5 * np.linalg.norm(exact)
        if way == "cholesky":
            assert got.vector.tobytes() == exact.tobytes()
        body = json.loads(last[key])
        assert msgspec.convert(body, FactorRecord).events == want.events
        if rules.serves:
            assert not served_otherwise(body, want, matrix, rules)
        else:
            assert np.array(body["vector"], np.float32).tobytes() == got.vector.tobytes()


@given(
    happened=EVENTS,
    seed=st.integers(0, 2**32),
    half_life=st.sampled_from([0, 3 * DAY_MS]),
    nu=st.sampled_from([0, 1]),
    window=st.sampled_from([DAY_MS, 90 * DAY_MS]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_order_of_arrival_gives_the_same_user(
    happened: list[dict[str, Any]], seed: int, half_life: int, nu: int, window: int
) -> None:
    """Within the bounds (capacities, lateness) and but for a return between two positive events of its item."""
    policy = Policy(
        half_life_ms=half_life,
        lateness_ms=9 * DAY_MS,
        window_ms=window,
        ridge=1.0,
        ridge_nu=float(nu),
        session_weight=0.3,
        session_gap_ms=DAY_MS,
        blend_events=5,
        segment_key="device",
    )
    seen: set[tuple[str, str, int]] = set()
    bodies = []
    for number, body in enumerate(happened):
        kind = "hide" if body["event_type"] == "return" else body["event_type"]
        # A return is tried on an item of its own, where nothing follows it.
        if body["event_type"] == "return" and (number % 3 == 0):
            body = body | {"item_id": "i8", "timestamp": NOW - 5}
            kind = "return"
        elif body["item_id"] == "i8":
            body = body | {"timestamp": min(body["timestamp"], NOW - 10)}
        moment = (body["user_id"], kind, body["timestamp"])
        if moment not in seen:
            seen.add(moment)
            bodies.append(event(**body | {"event_type": kind}, request_id=f"r{number}"))
    shuffled = list(bodies)
    random.Random(seed).shuffle(shuffled)
    results = []
    for order in (bodies, shuffled):
        step, _, _ = world_of(policy, "cholesky", False)
        rows: dict[bytes, bytes] = {}
        # Each comes in time for its own clock, so that what ends up outside of the window was inside when it came.
        batch = [record(number, body, timestamp=arrival(body, True)) for number, body in enumerate(order)]
        done = run(step, batch, [7, 13], rows)
        last = {key: value for effects in done for key, value, *_ in effects.sends.get((TOPICS.user_factors, 0), [])}
        results.append((step, rows, {key: json.loads(value) for key, value in last.items()}))
    (step, rows, records), (_, others, again) = results
    assert rows.keys() == others.keys()
    for key in rows:
        one, other = (decode_user_rows([found[key]], step._generation.shape) for found in (rows, others))
        by_item = [
            dict(zip(side.item[0].tolist(), zip(side.time[0], side.strength[0], strict=True), strict=True))
            for side in (one, other)
        ]
        assert by_item[0].keys() == by_item[1].keys()
        for item, (at, strength) in by_item[0].items():
            assert at == by_item[1][item][0]
            np.testing.assert_allclose(strength, by_item[1][item][1], rtol=1e-5)
        assert one.extras == other.extras
        for name in ("events", "event_time", "entries", "keys", "cap_day", "cap_count"):
            assert one.head[name] == other.head[name]
        assert records[key]["basis"] == again[key]["basis"]
        assert records[key]["suppressed"] == again[key]["suppressed"]
        for field in ("vector", "session"):
            np.testing.assert_allclose(records[key].get(field, 0), again[key].get(field, 0), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("way", ["kernel", "numpy", "cholesky"])
@pytest.mark.parametrize("rhs", ["c", "c-1"])
@pytest.mark.parametrize(("days", "counts"), [(90, True), (91, False)])
def test_what_has_left_the_window_counts_for_nothing(
    way: str, rhs: Literal["c", "c-1"], days: int, counts: bool
) -> None:
    """A purchase that came in time, and a click days later: the vector of both, or of the click alone."""
    if way == "kernel" and not compiled.available():
        pytest.skip("numba is not installed")
    step, _, _ = world_of(Policy(rhs=rhs, ridge=1.0), "cholesky" if way == "cholesky" else "cg", way == "kernel")
    bought = event(event_type="purchase", timestamp=NOW - days * DAY_MS)
    clicked = event(request_id="r2", item_id="i2")
    both: dict[bytes, bytes] = {}
    done = run(step, [record(0, bought, timestamp=NOW - days * DAY_MS), record(1, clicked)], [1], both)
    alone: dict[bytes, bytes] = {}
    run(step, [record(0, clicked)], [], alone)
    rows = decode_user_rows([both[b"ann"], alone[b"ann"]], step._generation.shape)
    assert rows.head["entries"].tolist() == [2, 1]
    assert (rows.head["events"][0], rows.head["version"][0]) == (2, 2)
    assert done[-1].facts["matrix_entries"] == 1 + counts
    apart = np.linalg.norm(rows.vector[0] - rows.vector[1]) / np.linalg.norm(rows.vector[1])
    assert apart > 0.1 if counts else apart <= 1e-5
    error = parity_error(both[b"ann"], step._items, step._generation)
    assert error is not None
    assert error <= 1e-5


def test_what_was_bought_before_the_window_does_not_come_back() -> None:
    """The window ends with the newest event, also where that hides or returns: then nothing is left to solve."""
    step, _, _ = world_of(Policy(), "cholesky", False)
    long_ago = NOW - 100 * DAY_MS
    records = [
        record(0, event(event_type="purchase", timestamp=long_ago), timestamp=long_ago),
        record(1, event(request_id="r2", item_id="i2")),
        record(2, event(request_id="r3", item_id="i2", event_type="return", timestamp=NOW + 1)),
    ]
    rows: dict[bytes, bytes] = {}
    [effects] = run(step, records, [], rows)
    assert effects.facts["cold_start"] == 1
    assert decode_user_rows([rows[b"ann"]], step._generation.shape).vector[0].tolist() == [0.25] * K
