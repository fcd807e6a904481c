"""The compiled kernel against the numpy path: the same rows, outcomes, dead letters, signals and records."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.layouts import LayoutError, decode_signals
from schemas.outcomes import Outcome
from schemas.records import DAY_MS, FactorRecord, Policy
from streamer.factors.kernel.rules import N_USER
from streamer.steps import compiled, encoder
from streamer.steps.user import UserStep
from tests.streamer.steps.world import NOW, TOPICS, event, items, record, run, user_step

pytestmark = pytest.mark.skipif(not compiled.available(), reason="numba is not installed")

POLICIES = st.builds(
    Policy,
    history_capacity=st.sampled_from([1, 6, 20]),
    keys_capacity=st.sampled_from([1, 4, 18]),
    keys_window_ms=st.sampled_from([0, DAY_MS, 7 * DAY_MS]),
    half_life_ms=st.sampled_from([0, 3_600_000, 30 * DAY_MS]),
    window_ms=st.sampled_from([2 * DAY_MS, 8 * DAY_MS, 90 * DAY_MS]),
    confidence=st.sampled_from(["log", "linear", "raw"]),
    rhs=st.sampled_from(["c", "c-1"]),
    recency_entries=st.sampled_from([0.0, 0.7, 4.0]),
    ridge=st.sampled_from([0.5, 10.0]),
    ridge_nu=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
    ridge_alpha0=st.sampled_from([0.0, 0.2]),
    norm_cap=st.sampled_from([0.6, 1000.0]),
    suppress_capacity=st.just(2),
)


def bodies(kinds: list[str]) -> Any:
    return st.lists(
        st.fixed_dictionaries(
            {
                "user_id": st.sampled_from(["ann", "bob", "cem", "döne", 'e"e']),
                "item_id": st.sampled_from([f"i{n}" for n in range(20)] + [f"unknown-{n}" for n in range(5)]),
                "event_type": st.sampled_from(kinds),
                "request_id": st.sampled_from([f"r{n}" for n in range(25)]),
                "timestamp": st.one_of(
                    st.integers(NOW - 9 * DAY_MS, NOW + 1000), st.sampled_from([NOW, NOW - 1000, NOW - 6 * DAY_MS])
                ),
                "value": st.sampled_from([1.0, 1.0, 2.5, 1e-9, 1e7, 1e300]),
            }
        ),
        max_size=80,
    )


def both(policy: Policy, *, dimension: int = 8, model_version: str = "m1") -> tuple[UserStep, UserStep]:
    """The same step twice: compiled, and by numpy alone."""
    pair = []
    for fast in (True, False):
        view = items(policy, dimension=dimension)
        # Vectors that moved since the space was factored leave a remainder in the systems.
        moved = view.space.vectors[:2] * np.float32(1.01)
        view.put(["i0", "i1"], [2, 2], moved)
        step = user_step(policy, "cg", view, fast=fast, model_version=model_version)
        assert (step._compiled is not None) == fast
        pair.append(step)
    return pair[0], pair[1]


def assert_same(fast: list[Any], slow: list[Any], dimension: int) -> None:
    for one, other in zip(fast, slow, strict=True):
        assert one.outcomes == other.outcomes
        assert one.sends.keys() == other.sends.keys()
        assert one.sends.get((TOPICS.dead_letters, 0)) == other.sends.get((TOPICS.dead_letters, 0))
        assert sorted(key for key, _ in one.rows) == [key for key, _ in sorted(other.rows)]
        vector = slice(64, 64 + 4 * dimension)
        for (_, row), (_, twin) in zip(sorted(one.rows), sorted(other.rows), strict=True):
            assert row[:64] + row[vector.stop :] == twin[:64] + twin[vector.stop :]
            assert_near(np.frombuffer(row[vector], "<f4"), np.frombuffer(twin[vector], "<f4"))
        for target in one.sends:
            if target[0] == TOPICS.item_signals:
                assert_same_signals(one.sends[target], other.sends[target], dimension)
            if target[0] == TOPICS.user_factors:
                assert_same_records(one.sends[target], other.sends[target])
        same = ("nonfinite", "cold_start", "users", "matrix_entries", "signals", "unknown_items", "top_item")
        assert {name: one.facts.get(name) for name in same} == {name: other.facts.get(name) for name in same}
        if one.rows:
            np.testing.assert_allclose(np.sort(one.norms), np.sort(other.norms), rtol=1e-5)


def assert_near(one: Any, other: Any) -> None:
    assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other)


def assert_same_signals(fast: list[Any], slow: list[Any], dimension: int) -> None:
    """Of each user in the same order: plain users' come before the others'."""
    fast, slow = (sorted(signals, key=lambda signal: signal[1][16:24]) for signals in (fast, slow))
    assert [key for key, *_ in fast] == [key for key, *_ in slow]
    one = decode_signals([value for _, value, *_ in fast], dimension=dimension)
    other = decode_signals([value for _, value, *_ in slow], dimension=dimension)
    for name in ("event_time", "user", "generation"):
        assert (one[name] == other[name]).all()
    np.testing.assert_allclose(one["confidence"], other["confidence"], rtol=1e-6)
    for a, b in zip(one["vector"], other["vector"], strict=True):
        assert_near(a, b)


def assert_same_records(fast: list[Any], slow: list[Any]) -> None:
    fast, slow = (sorted(records, key=lambda record: record[0]) for records in (fast, slow))
    assert [(key, headers) for key, _, _, headers in fast] == [(key, headers) for key, _, _, headers in slow]
    for (_, value, *_), (_, twin, *_) in zip(fast, slow, strict=True):
        one, other = (msgspec.json.decode(text, type=FactorRecord) for text in (value, twin))
        assert_near(np.array(one.vector), np.array(other.vector))
        assert msgspec.structs.replace(one, vector=[]) == msgspec.structs.replace(other, vector=[])


@pytest.mark.parametrize("encoding", ["json", "f32le"])
@pytest.mark.parametrize("limit", [1, 700, 1 << 20])
def test_what_is_published_is_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, encoding: Literal["json", "f32le"], limit: int
) -> None:
    """But for the digits of vectors: in one record batch or in many, raw or JSON, with traces or without."""
    monkeypatch.setattr(encoder, "LIMIT", limit)
    policy = Policy(history_capacity=6, keys_capacity=4)
    users = ["ann", "bob", "cem", "döne", 'e"\\e', "f\x01\x1ff"]
    records = [
        record(
            number,
            event(user_id=users[number % 6], request_id=f"r{number}", item_id=f"i{number % 7}"),
            headers=(("traceparent", b"00-%d" % number),) if number % 4 == 1 else (),
        )
        for number in range(20)
    ]
    fast, slow = (user_step(policy, "cg", fast=fast, encoding=encoding) for fast in (True, False))
    [one], [other] = (run(step, records, [], {}) for step in (fast, slow))
    key = (TOPICS.user_factors, 0)
    for (name, value, _, headers), (twin, text, _, heads) in zip(
        *(sorted(done.sends[key]) for done in (one, other)), strict=True
    ):
        assert (name, headers) == (twin, heads)
        if encoding == "f32le":
            assert_near(np.frombuffer(value, "<f4"), np.frombuffer(text, "<f4"))
        else:
            assert re.sub(rb"\[[^]]*\]", b"", value, count=1) == re.sub(rb"\[[^]]*\]", b"", text, count=1)
    signals = [{target for target in done.sends if target[0] == TOPICS.item_signals} for done in (one, other)]
    assert signals[0] == signals[1]
    for target in signals[0]:
        assert [name for name, *_ in one.sends[target]] == [name for name, *_ in other.sends[target]]


MIXED = ["click", "click", "view", "purchase", "hide", "return"]


@pytest.mark.parametrize("kinds", [["click", "purchase"], MIXED], ids=["plain", "mixed"])
@given(data=st.data(), policy=POLICIES, cuts=st.lists(st.integers(1, 79), max_size=5))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_both_paths_do_the_same(kinds: list[str], data: Any, policy: Policy, cuts: list[int]) -> None:
    """Whatever the events, and however they are cut; the second half belongs to another generation."""
    punctual = data.draw(st.booleans())
    records = [
        record(offset, body, timestamp=min(NOW, body["timestamp"]) if punctual else NOW)
        for offset, body in enumerate(data.draw(bodies(kinds)))
    ]
    dimension = data.draw(st.sampled_from([1, 7, 8]))
    rows: tuple[dict[bytes, bytes], dict[bytes, bytes]] = ({}, {})
    half = len(records) // 2
    for part, version in ((records[:half], "m1"), (records[half:], "m2")):
        fast, slow = both(policy, dimension=dimension, model_version=version)
        # The rows, which hold float32 vectors a hair apart, start each batch from each path's own.
        assert_same(run(fast, part, cuts, rows[0]), run(slow, part, cuts, rows[1]), dimension)


def test_a_user_grows_through_every_size_class() -> None:
    """One event a batch, up to the eviction of entries and of keys."""
    policy = Policy(history_capacity=19, keys_capacity=17)
    records = [record(n, event(request_id=f"r{n}", item_id=f"i{n % 23}", timestamp=NOW + n)) for n in range(60)]
    rows: tuple[dict[bytes, bytes], dict[bytes, bytes]] = ({}, {})
    fast, slow = both(policy)
    cuts = list(range(1, 60))
    assert_same(run(fast, records, cuts, rows[0]), run(slow, records, cuts, rows[1]), 8)
    assert len(rows[0][b"ann"]) == 64 + 32 + 16 + 20 * 19 + 16 * 17


def test_a_vector_far_shorter_than_the_one_before_is_still_right() -> None:
    """From a long start float32 cannot reach a short solution: such a user is solved exactly, on both paths."""
    policy = Policy(history_capacity=1, half_life_ms=0, rhs="c-1")
    records = [record(0, event()), record(1, event(request_id="r2", item_id="i2", timestamp=NOW + 1, value=1e-9))]
    vectors = []
    for step in (*both(policy), user_step(policy, "cholesky", both(policy)[0]._items)):
        rows: dict[bytes, bytes] = {}
        run(step, records, [1], rows)
        vectors.append(np.frombuffer(rows[b"ann"][64:96], "<f4"))
    assert 0 < np.linalg.norm(vectors[2]) < 1e-6
    assert_near(vectors[0], vectors[2])
    assert_near(vectors[1], vectors[2])


def test_plain_users_take_the_compiled_path_and_others_do_not() -> None:
    """A suppressed item makes a row special, a click alone does not."""
    step, _ = both(Policy(history_capacity=6, keys_capacity=4))
    assert step._compiled is not None
    rows: dict[bytes, bytes] = {}
    run(step, [record(0, event()), record(1, event(user_id="bob", event_type="hide"))], [], rows)
    batch = step.read([record(2, event(request_id="r2")), record(3, event(user_id="bob", request_id="r2"))], 0)
    plain = step._compiled.refresh(batch.events.columns(), [rows.get(key) for key in batch.keys], [])
    assert plain.numbers[:, N_USER].tolist() == [0]
    assert plain.others.tolist() == [1]


def test_a_poisoned_item_is_left_to_the_guard() -> None:
    """The kernel gives up on the user, and the last good vector stays."""
    policy = Policy(history_capacity=6, keys_capacity=4)
    step, _ = both(policy)
    rows: dict[bytes, bytes] = {}
    run(step, [record(0, event())], [], rows)
    step._items.space.whitened[2] = step._items.space.vectors[2] = np.float32("nan")
    with np.errstate(all="ignore"):
        [effects] = run(step, [record(1, event(request_id="r2", item_id="i2"))], [], rows)
    assert effects.facts["nonfinite"] == 1
    assert effects.outcomes == {(Outcome.APPLIED, None): 1}


@pytest.mark.parametrize("damage", ["short", "format", "dimension", "length", "entries"])
def test_a_damaged_row_is_refused(damage: str) -> None:
    """By the one place that says what is wrong with it."""
    step, _ = both(Policy(history_capacity=6, keys_capacity=4))
    rows: dict[bytes, bytes] = {}
    run(step, [record(0, event()), record(1, event(user_id="bob"))], [], rows)
    good = bytearray(rows[b"ann"])
    if damage == "format":
        good[0] = 9
    elif damage == "dimension":
        good[2] = 7
    elif damage == "entries":
        good[4] = 200
    rows[b"ann"] = bytes(good[:30] if damage == "short" else good[:-1] if damage == "length" else good)
    records = [record(2, event(request_id="r2")), record(3, event(user_id="bob", request_id="r2"))]
    with pytest.raises(LayoutError):
        run(step, records, [], rows)


def test_without_a_compiler_numpy_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is optional; caps and the exact solver do not use it."""
    policy = Policy(history_capacity=6, keys_capacity=4)
    assert user_step(policy, "cholesky")._compiled is None
    assert user_step(Policy(cap_item_strength=3.0), "cg")._compiled is None
    monkeypatch.setattr(compiled, "available", lambda: False)
    step = user_step(policy, "cg")
    assert step._compiled is None
    [effects] = run(step, [record(0, event())], [], {})
    assert effects.outcomes == {(Outcome.APPLIED, None): 1}
