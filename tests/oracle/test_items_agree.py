"""The item step and the oracle's replay of its signals agree, whatever the policy and however batches are cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.layouts import encode_signals
from schemas.records import DAY_MS, Manifest, Policy
from streamer.events.hashes import generation_id
from streamer.steps.item import ItemStep, ItemTopics
from streamer.steps.items import Items
from tests.oracle.items import check_items
from tests.oracle.logs import LogRecord, Logs
from tests.oracle.report import Report
from tests.oracle.rules import Rules
from tests.streamer.steps.world import NOW, FakeRecord, items, manifest

K, KNOWN = 4, 6
COUNTS = {"items": KNOWN, "events": 45}
TOPICS = ItemTopics("t.item-signals", "t.item-factors")
POLICIES = st.builds(
    Policy,
    sgd_rate=st.sampled_from([0.05, 0.3]),
    sgd_clip=st.sampled_from([0.05, 1.0]),
    sgd_objective=st.sampled_from(["pointwise", "bpr"]),
    sgd_step=st.sampled_from(["constant", "adagrad"]),
    sgd_pull=st.sampled_from([0.0, 2.0]),
    sgd_budget=st.sampled_from([0, 3]),
    sgd_balance=st.sampled_from([0.0, 0.5]),
    new_item_users=st.sampled_from([1, 3]),
    new_items_cap=st.sampled_from([0, 2, 100]),
    rhs=st.sampled_from(["c", "c-1"]),
    norm_cap=st.sampled_from([0.5, 1000.0]),
)


def generation(policy: Policy) -> tuple[Manifest, Items]:
    """Six items with popularities, and the Gramian of some users."""
    draw = np.random.default_rng(5)
    users = draw.standard_normal((40, K)) * 0.3
    gram = (users.T @ users)[np.triu_indices(K)].tolist()
    made = msgspec.structs.replace(manifest(policy, K), user_gramian=gram, item_partitions=2, counts=COUNTS)
    view = items(policy, KNOWN, K, seed=1)
    view.popularity |= {f"i{at}": float(np.float32(0.3 * (at + 1))) for at in range(KNOWN)}
    return made, view


def signals(policy: Policy, seed: int, count: int) -> list[FakeRecord]:
    """Signals on known items and new ones, of a few users, over some days, some late."""
    draw = np.random.default_rng(seed)
    paired = policy.sgd_objective == "bpr"
    names = [f"i{at}" for at in range(KNOWN)] + [f"new{at}" for at in range(4)]
    keys = [names[at] for at in draw.integers(0, len(names), count)]
    sign = np.where((draw.random(count) < 0.4) & np.array([key[0] == "i" for key in keys], bool), -1.0, 1.0)
    values = encode_signals(
        confidence=1 + 5 * draw.random(count),
        event_time=NOW + draw.integers(-DAY_MS, 2 * DAY_MS, count),
        user=draw.integers(1, 45, count).astype(np.uint64),
        generation=generation_id("m1"),
        vector=draw.standard_normal((count, K)).astype(np.float32),
        pair=(draw.standard_normal(count), sign) if paired else None,
    )
    return [FakeRecord(key.encode(), value, 2 * at) for at, (key, value) in enumerate(zip(keys, values, strict=True))]


def worked(policy: Policy, records: list[FakeRecord], cuts: list[int]) -> tuple[Logs, Rules, dict[bytes, bytes]]:
    """The item side at rest after these signals in batches cut so."""
    made, view = generation(policy)
    step = ItemStep(made, view, TOPICS, encoding="json", source="test")
    published = [
        LogRecord(0, at, name.encode(), msgspec.json.encode({"vector": vector.tolist(), "version": 1} | known))
        for at, (name, vector, known) in enumerate(
            (name, view.space.vectors[at], {"popularity": view.popularity[name]})
            for at, name in enumerate(view.space.ids)
        )
    ]
    state, rows = list[LogRecord](), dict[bytes, bytes]()
    for low, high in pairwise([0, *sorted({cut for cut in cuts if 0 < cut < len(records)}), len(records)]):
        batch = step.read(records[low:high], 0)
        effects = step.apply(batch, [rows.get(key) for key in batch.keys])
        rows.update(effects.rows)
        state += [LogRecord(0, len(state) + at, key, value) for at, (key, value) in enumerate(effects.rows)]
        end = records[high - 1].offset + 1
        state.append(LogRecord(0, len(state), b"", end.to_bytes(8, "little")))
        for key, value, _, headers in effects.sends.get((TOPICS.item_factors, 0), []):
            published.append(LogRecord(0, len(published), key, value, 0, tuple(headers)))
    logs = Logs(
        manifest=msgspec.json.encode(made),
        interactions={},
        committed={},
        user_state={},
        user_factors={},
        dead_letters={},
        items={0: published},
        signals={0: [LogRecord(0, one.offset, one.key, one.value) for one in records]},
        item_state={0: state},
        items_committed={0: end},
    )
    return logs, Rules.of_manifest(logs.manifest, partitions=1), rows


def violations(logs: Logs, rules: Rules) -> list[str]:
    report = Report()
    check_items(logs, {0: (logs.items_committed or {})[0]}, rules, report)
    return list(report.violations)


@settings(max_examples=25)
@given(POLICIES, st.integers(0, 2**32 - 1), st.integers(1, 160), st.lists(st.integers(1, 160), max_size=8))
def test_the_oracle_finds_nothing(policy: Policy, seed: int, count: int, cuts: list[int]) -> None:
    """Rows, versions, vectors, reservoirs, counts and what was published."""
    logs, rules, _ = worked(policy, signals(policy, seed, count), cuts)
    assert violations(logs, rules) == []


@settings(max_examples=25)
@given(POLICIES, st.integers(0, 2**32 - 1), st.lists(st.integers(1, 160), max_size=12))
def test_cutting_the_signals_does_not_show(policy: Policy, seed: int, cuts: list[int]) -> None:
    """The last rows are the same bytes, but for their versions."""
    records = signals(policy, seed, 160)
    whole, cut = worked(policy, records, [])[2], worked(policy, records, cuts)[2]
    assert {key: row[:24] + row[32:] for key, row in whole.items()} == {
        key: row[:24] + row[32:] for key, row in cut.items()
    }


@pytest.mark.parametrize(
    "change",
    [
        {"sgd_budget": 0},
        {"sgd_pull": 0.0},
        {"sgd_balance": 0.0},
        {"sgd_step": "constant"},
        {"sgd_clip": 1.0},
        {"new_items_cap": 100},
        {"new_item_users": 4},
        {"norm_cap": 1000.0},
        {"ridge": 11.0},
        {"rhs": "c-1"},
    ],
)
@pytest.mark.parametrize("objective", ["pointwise", "bpr"])
def test_each_defence_shows(objective: Any, change: dict[str, Any]) -> None:
    """A worker without it has other rows."""
    policy = Policy(
        sgd_objective=objective,
        sgd_rate=0.3,
        sgd_clip=0.2,
        sgd_step="adagrad",
        sgd_pull=2.0,
        sgd_budget=3,
        sgd_balance=0.5,
        new_items_cap=4,
        norm_cap=1.0,
    )
    records = signals(policy, 7, 400)
    cuts = list(range(0, 400, 9))
    _, rules, _ = worked(policy, records, cuts)
    logs, _, _ = worked(msgspec.structs.replace(policy, **change), records, cuts)
    assert violations(logs, rules)
