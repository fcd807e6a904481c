"""Two generations at once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from schemas.layouts import generation_of
from schemas.records import Policy
from streamer.events.hashes import generation_id
from streamer.steps.canary import CanaryStep, tried
from streamer.steps.trial import Evidence, Verdict, verdict
from streamer.steps.user import UserStep
from tests.streamer.steps.world import TOPICS, decoded, event, items, record, user_step

POLICY = Policy(history_capacity=8, keys_capacity=8)
USERS = [f"u{number}" for number in range(60)]
NEVER = 2**63 - 1


def steps(fraction: float) -> CanaryStep:
    """m1 for most, m2 for some."""
    return CanaryStep(user_step(POLICY, "cg"), trial_step(), fraction)


def trial_step() -> UserStep:
    among = {"founding": False, "told": {generation_id("m1"): NEVER}}
    return user_step(POLICY, "cg", items(POLICY, seed=5), model_version="m2", among=among)


def test_the_share_is_about_right_and_always_the_same_users() -> None:
    """By hash: a larger share holds the smaller one's users."""
    keys = [f"user-{number}".encode() for number in range(20_000)]
    some, more = ({key for key in keys if tried(key, share)} for share in (0.1, 0.3))
    assert some < more
    assert 0.09 < len(some) / len(keys) < 0.11
    assert 0.28 < len(more) / len(keys) < 0.32


def test_each_user_is_as_with_the_one_step_alone() -> None:
    """Rows, records and signals of a mixed batch are those of two batches apart; every record has one outcome."""
    both = steps(0.4)
    records = [record(at, event(user_id=user, request_id=f"r{at}")) for at, user in enumerate(USERS)]
    batch = both.read(records, 0)
    mixed = decoded(both.apply(batch, [None] * len(batch.keys)))
    assert sum(mixed.outcomes.values()) == len(records)
    rows = dict(mixed.rows)
    for alone, mine in ((user_step(POLICY, "cg"), False), (trial_step(), True)):
        chosen = [one for one in records if tried(one.key or b"", 0.4) == mine]
        assert chosen
        apart = alone.read(chosen, 0)
        done = decoded(alone.apply(apart, [None] * len(apart.keys)))
        assert {key: rows[key] for key, _ in done.rows} == dict(done.rows)
        for target, sends in done.sends.items():
            mixed_sends = {(key, value) for key, value, _, _ in mixed.sends[target]}
            assert {(key, value) for key, value, _, _ in sends} <= mixed_sends
    assert {generation_of(row) for row in rows.values()} == {generation_id("m1"), generation_id("m2")}


def test_both_generations_are_sampled() -> None:
    """Each event by the one of its user: there is nothing to compare the trial by, else."""
    among = {"founding": False, "told": {generation_id("m1"): NEVER}}
    trial = user_step(POLICY, "cg", items(POLICY, seed=5), model_version="m2", sample=1.0, among=among)
    both = CanaryStep(user_step(POLICY, "cg", sample=1.0), trial, 0.4)
    records = [record(at, event(user_id=user, request_id=f"r{at}")) for at, user in enumerate(USERS)]
    batch = both.read(records, 0)
    sampled = {one.model_version: len(one.types) for one in both.apply(batch, [None] * len(batch.keys)).sampled}
    mine = sum(tried(one.key or b"", 0.4) for one in records)
    assert sampled == {"m1": len(USERS) - mine, "m2": mine}


def test_users_go_into_the_trial_and_come_back() -> None:
    """Only those who are tried on change their generation; their items are told once, whatever happens."""
    records = [record(at, event(user_id=user, request_id=f"r{at}")) for at, user in enumerate(USERS)]
    alone = user_step(POLICY, "cg")
    batch = alone.read(records, 0)
    rows = dict(decoded(alone.apply(batch, [None] * len(batch.keys))).rows)
    both = steps(0.4)
    stale = [key for key, row in rows.items() if both.stale(key, row)]
    assert {key for key in rows if tried(key, 0.4)} == set(stale)
    there = both.renew(stale, [rows[key] for key in stale], 0)
    assert not any(topic == TOPICS.item_signals for topic, _ in there.sends)
    rows.update(there.rows)
    published = [json.loads(value or b"")["model_version"] for _, value, _, _ in there.sends[TOPICS.user_factors, 0]]
    assert set(published) == {"m2"}
    back = [key for key, row in rows.items() if alone.stale(key, row)]
    assert set(back) == set(stale)
    home = dict(alone.renew(back, [rows[key] for key in back], 0).rows)
    before = dict(decoded(alone.apply(alone.read(records, 0), [None] * len(batch.keys))).rows)
    for key, row in home.items():
        assert np.frombuffer(row[64:96], "<f4") == pytest.approx(np.frombuffer(before[key][64:96], "<f4"), rel=1e-4)


@pytest.mark.parametrize(
    ("served", "trial", "expected"),
    [
        ((999, 200, 1.0), (5_000, 1_000, 1.0), None),
        ((5_000, 1_000, 1.0), (999, 200, 1.0), None),
        ((1_000, 200, 1.0), (1_000, 181, 1.0), Verdict.PROMOTE),
        ((1_000, 200, 1.0), (1_000, 179, 1.0), Verdict.ABANDON),
        ((1_000, 200, 1.0), (1_000, 300, 2.1), Verdict.ABANDON),
        ((1_000, 200, 2.1), (1_000, 300, 1.0), Verdict.ABANDON),
        ((1_000, 200, 1.0), (1_000, 300, float("nan")), Verdict.ABANDON),
        ((1_000, 0, 1.0), (1_000, 0, 1.0), Verdict.PROMOTE),
    ],
)
def test_the_rule(served: tuple[int, int, float], trial: tuple[int, int, float], expected: Verdict | None) -> None:
    """Enough events, nearly the recall, and vectors of about the same length."""
    found = verdict(Evidence(*served), Evidence(*trial), min_events=1_000, margin=0.1, max_norm_ratio=2.0)
    assert found is expected
