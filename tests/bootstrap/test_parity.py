"""The promise: what the job publishes is what the stream would hold, had it read the same log."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bootstrap.columns import columns_of
from bootstrap.fold import fold
from bootstrap.job import Lineage, make
from bootstrap.matrix import build
from bootstrap.read import Log, judge_records
from bootstrap.serve import server_of
from ops.data import synthetic
from schemas.layouts import RowShape, decode_user_rows, encode_user_rows
from schemas.outcomes import Outcome
from schemas.records import DAY_MS, Policy
from streamer.commands.audit import fresh_vector
from streamer.events.hashes import generation_id
from streamer.events.read import Reader
from streamer.factors.ridge import ridge_in
from streamer.factors.weigh import confidence_now, inside_window
from streamer.steps.items import Items
from streamer.steps.user import UserStep, UserTopics
from tests.bootstrap.small import KEY, NOW_MS, SHAPE, changed, event, quiet, settings_of

if TYPE_CHECKING:
    from pathlib import Path

    from bootstrap.model import Model
    from schemas.records import Manifest

TOPICS = UserTopics("interactions", "user-factors", "item-signals", "dead-letters", 1)


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a topic with one partition, received a second after it happened."""

    key: bytes
    value: bytes
    timestamp: int
    offset: int
    partition: int = 0
    headers: tuple[tuple[str, bytes | None], ...] = ()


def records_of(events: Any) -> list[Record]:
    return [
        Record(one["user_id"].encode(), orjson.dumps(one), one["timestamp"] + 1_000, offset)
        for offset, one in enumerate(events)
    ]


def reader_of(policy: Policy) -> Reader:
    return Reader(policy, tenant=None, max_bytes=65_536, invalid_items=())


def log_of(records: list[Record], policy: Policy) -> Log:
    return judge_records(records, reader_of(policy), policy, partitions=1)


def items_of(manifest: Manifest, model: Model) -> Items:
    items = Items(dimension=manifest.dimension, ridge=ridge_in(manifest), item_key=KEY, partitions=2)
    weights = None if model.weights is None else model.weights.tolist()
    items.put(model.item_ids, [1] * len(model.item_ids), model.items, weights)
    items.settle()
    return items


def streamed(
    manifest: Manifest,
    model: Model,
    records: list[Record],
    solver: Any,
    published: dict[bytes, dict[str, Any]] | None = None,
) -> tuple[dict[bytes, bytes], Any]:
    """The rows that a worker of this generation ends with, and its outcomes; ``published`` takes the last records."""
    items = items_of(manifest, model)
    step = UserStep(
        manifest,
        items,
        TOPICS,
        reader_of(manifest.policy),
        solver=solver,
        tolerance=1e-6,
        encoding="json",
        source="test",
    )
    rows: dict[bytes, bytes] = {}
    outcomes: Any = None
    for first in range(0, len(records), 997):
        batch = step.read(records[first : first + 997], 0)
        effects = step.apply(batch, [rows.get(key) for key in batch.keys])
        rows.update(effects.rows)
        if published is not None:
            for key, value, *_ in effects.sends.get((TOPICS.user_factors, 0), []):
                published[key or b""] = orjson.loads(value or b"")
        outcomes = effects.outcomes if outcomes is None else outcomes + effects.outcomes
    return rows, outcomes


@pytest.mark.parametrize(
    ("options", "solver"),
    [
        ({}, "cg"),
        ({"rhs": "c-1"}, "cholesky"),
        ({"rhs": "c-1", "recency_entries": 3.0}, "cg"),
        ({"ridge": 0.5, "ridge_nu": 1.0, "confidence": "linear"}, "cg"),
        ({"ridge": 0.01, "ridge_nu": 1.0, "ridge_alpha0": 1.0, "unobserved_power": 0.5, "confidence": "raw"}, "cg"),
        ({"ridge_nu": 0.5, "unobserved_power": 0.5}, "cholesky"),
    ],
)
def test_rows_and_vectors_equal_the_streams(tmp_path: Path, options: dict[str, Any], solver: Any) -> None:
    """History, keys and counts to the byte, vectors to 1e-5, for a log that overflows both capacities."""
    policy = changed(history_capacity=24, keys_capacity=12, **options)
    events = list(synthetic.load(5, SHAPE).rebase(NOW_MS).events)
    events = [one for one in events if one["event_type"] != "hide"]
    events = [copy for one in events for copy in [one] * (2 if one["item_id"].endswith("7") else 1)]
    records = records_of(events)
    configured = settings_of(tmp_path).model_copy(update={"policy": policy})
    log = log_of(records, policy)
    manifest, model = make(configured, log, Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
    rows, outcomes = streamed(manifest, model, records, solver)
    assert outcomes == log.outcomes
    shape = RowShape(manifest.dimension, policy.history_capacity, policy.keys_capacity, 2)
    theirs = decode_user_rows([rows[user.encode()] for user in model.users.ids], shape)
    worst = np.abs(theirs.vector - model.user_vectors).max()
    assert worst < 1e-5
    ours = model.users.rows(
        slice(0, len(rows)),
        theirs.vector,
        shape=shape,
        generation=generation_id(manifest.model_version),
        epochs=np.zeros(2, np.int64),
        version=0,
    )
    ours.head["version"] = theirs.head["version"]  # a worker counts its revisions, the job starts at 1
    assert len(rows) == len(model.users.ids)
    assert max(np.diff(model.users.history_start)) == 24
    assert encode_user_rows(ours) == encode_user_rows(theirs)


KINDS = ("like", "click", "hide", "dislike", "return")


@given(
    happened=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 4), st.sampled_from(KINDS), st.integers(0, 2)), max_size=30
    ),
    capacity=st.integers(1, 8),
    half_life=st.sampled_from([0, 3 * DAY_MS]),
)
def test_suppression_equals_the_streams(
    happened: list[tuple[int, int, str, int]], capacity: int, half_life: int
) -> None:
    """Hides, dislikes and returns among likes, in time order with ties: the same rows to the byte."""
    policy = changed(history_capacity=capacity, half_life_ms=half_life)
    at, events = NOW_MS, []
    for number, (user, item, kind, later) in enumerate(happened):
        at += later * DAY_MS
        events.append(event(f"u{user}", f"i{item}", kind, at, request_id=str(number)))
    records = records_of(events)
    log = log_of(records, policy)
    users = fold(columns_of(log, policy, KEY)[0], policy)
    world = Items(dimension=2, ridge=1.0, item_key=KEY, partitions=1)
    manifest = _manifest(policy)
    step = UserStep(
        manifest, world, TOPICS, reader_of(policy), solver="cholesky", tolerance=1e-6, encoding="json", source="test"
    )
    batch = step.read(records, 0)
    effects = step.apply(batch, [None] * len(batch.keys))
    assert effects.outcomes == log.outcomes
    assert log.outcomes[Outcome.APPLIED, None] + log.outcomes[Outcome.SUPPRESSED, None] == len(events)
    theirs = dict(effects.rows)
    shape = RowShape(2, policy.history_capacity, policy.keys_capacity, 1)
    ours = users.rows(
        slice(0, len(users.ids)),
        np.tile(np.array(manifest.average_user, np.float32), (len(users.ids), 1)),
        shape=shape,
        generation=generation_id(manifest.model_version),
        epochs=np.zeros(1, np.int64),
        version=1,
    )
    assert dict(zip([user.encode() for user in users.ids], encode_user_rows(ours), strict=True)) == theirs


@pytest.mark.parametrize(
    ("acts", "options"),
    [
        ("like0 like0 like1 like2 like0", {"cap_item_strength": 3.0}),
        ("like0 like1 like2 return1", {}),
        ("like0 return0 hide1 hide2 like0@-9", {"suppress_capacity": 1}),
        ("like0 return0@-1 like0 return0@-1", {}),
        ("like0 like0@2 return0@1 like0@1", {}),
        ("like0 return0@9 like0 like0", {"cap_item_strength": 3.0}),
    ],
)
def test_a_full_row_forgets_as_the_streams_does(acts: str, options: dict[str, Any]) -> None:
    """What was evicted, taken back late or let out of the suppression set; days after the first act behind the @."""
    policy = changed(history_capacity=2, half_life_ms=0, lateness_ms=60 * DAY_MS, future_ms=30 * DAY_MS, **options)
    events = []
    for number, act in enumerate(acts.split()):
        what, _, day = act.partition("@")
        at = NOW_MS + number + int(day or 0) * DAY_MS
        events.append(event("u", f"i{what[-1]}", what[:-1], at, request_id=str(number)))
    records = [
        Record(b"u", orjson.dumps(one), NOW_MS + 10 * DAY_MS + number, number) for number, one in enumerate(events)
    ]
    log = judge_records(records, reader_of(policy), policy, partitions=1, item_key=KEY)
    users = fold(columns_of(log, policy, KEY)[0], policy)
    world, manifest = Items(dimension=2, ridge=1.0, item_key=KEY, partitions=1), _manifest(policy)
    step = UserStep(
        manifest, world, TOPICS, reader_of(policy), solver="cholesky", tolerance=1e-6, encoding="json", source="test"
    )
    batch = step.read(records, 0)
    effects = step.apply(batch, [None])
    assert effects.outcomes == log.outcomes
    shape = RowShape(2, policy.history_capacity, policy.keys_capacity, 1)
    ours = users.rows(
        slice(0, 1),
        np.array([manifest.average_user], np.float32),
        shape=shape,
        generation=generation_id(manifest.model_version),
        epochs=np.zeros(1, np.int64),
        version=1,
    )
    assert encode_user_rows(ours) == [row for _, row in effects.rows]


def mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    """One of the others now and then: where every event has something odd, none gets through to be counted."""
    return st.sampled_from((*[usual] * 2 * len(others), *others))


LOGGED = st.fixed_dictionaries(
    {
        "user": st.sampled_from((0, 0, 0, 1, 2)),
        "item": st.sampled_from((0, 0, 1, 1, 2, 3, 4)),
        "kind": st.sampled_from((*["like"] * 4, "click", "view", "purchase", *KINDS[2:], "report", "nonsense")),
        "later": mostly(1_000, 0, 6 * 3_600_000, DAY_MS),
        "old": mostly(0, DAY_MS, 8 * DAY_MS, 40 * DAY_MS, -2_000, -3_600_000),
        "value": mostly(1.0, 2.5, 0.25, -1.0),
        "consent": mostly(None, True, False),
        "traffic": mostly(None, "human", "bot", "internal"),
        "tenant": mostly("mine", "mine", "other"),
        "request": mostly(None, 0, 1),
    }
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    happened=st.lists(LOGGED, min_size=30, max_size=60),
    capacity=st.integers(1, 8),
    half_life=st.sampled_from([0, 3 * DAY_MS]),
    cap_item=st.sampled_from([0.0, 3.0]),
    cap_day=st.sampled_from([0, 3]),
    rhs=st.sampled_from(["c", "c-1"]),
    recency=st.sampled_from([0.0, 2.0]),
    window=st.sampled_from([DAY_MS, 30 * DAY_MS]),
    batch=st.integers(1, 60),
    suppress=st.sampled_from([1, 2, 64]),
)
def test_both_paths_make_the_same_matrix_row(
    happened: list[dict[str, Any]],
    capacity: int,
    half_life: int,
    cap_item: float,
    cap_day: int,
    rhs: Any,
    recency: float,
    window: int,
    batch: int,
    suppress: int,
) -> None:
    """Window, lateness, future, caps, consent, bots, tenants, withdrawn items, negatives, repeats, nonsense in any mix.

    Cut into any batches: the same outcomes, the same history bytes, the same confidences; also where what was there
    before has been evicted, forgotten or taken back late.
    """
    policy = changed(
        history_capacity=capacity,
        half_life_ms=half_life,
        cap_item_strength=cap_item,
        cap_user_events_per_day=cap_day,
        window_ms=window,
        lateness_ms=31 * DAY_MS if capacity % 2 else 7 * DAY_MS,
        keys_window_ms=40 * DAY_MS,
        rhs=rhs,
        recency_entries=recency,
        suppress_capacity=suppress,
    )
    records = logged(happened)
    reader = Reader(policy, tenant="mine", max_bytes=65_536, invalid_items={"i4"})
    log = judge_records(records, reader, policy, partitions=1, item_key=KEY)
    columns, _ = columns_of(log, policy, KEY)
    users = fold(columns, policy)
    manifest, world = _manifest(policy), Items(dimension=2, ridge=1.0, item_key=KEY, partitions=1)
    step = UserStep(manifest, world, TOPICS, reader, solver="cholesky", tolerance=1e-6, encoding="json", source="test")
    theirs: dict[bytes, bytes] = {}
    outcomes: Any = Counter()
    for first in range(0, len(records), batch):
        read = step.read(records[first : first + batch], 0)
        effects = step.apply(read, [theirs.get(key) for key in read.keys])
        theirs.update(effects.rows)
        outcomes += effects.outcomes
    assert outcomes == log.outcomes
    assert sorted(theirs) == sorted(user.encode() for user in users.ids)
    if not theirs:
        return
    shape = RowShape(2, policy.history_capacity, policy.keys_capacity, 1)
    streamed_rows = decode_user_rows([theirs[user.encode()] for user in users.ids], shape)
    ours = users.rows(
        slice(0, len(users.ids)),
        streamed_rows.vector,
        shape=shape,
        generation=generation_id(manifest.model_version),
        epochs=np.zeros(1, np.int64),
        version=0,
    )
    ours.head["version"] = streamed_rows.head["version"]
    for name in ("item", "time", "strength"):
        assert getattr(ours, name).tobytes() == getattr(streamed_rows, name).tobytes()
    assert encode_user_rows(ours) == encode_user_rows(streamed_rows)
    matrix = build(columns, users, policy, int(columns.at.max()))
    used = np.arange(shape.history) < streamed_rows.head["entries"][:, None]
    confidence = confidence_now(streamed_rows.strength, streamed_rows.time, used, policy)
    used &= inside_window(streamed_rows.time, streamed_rows.head["event_time"][:, None], policy)
    assert matrix.confidence == pytest.approx(confidence[used], rel=1e-12)
    assert np.diff(matrix.by_user.indptr).tolist() == used.sum(axis=1).tolist()


def logged(happened: list[dict[str, Any]]) -> list[Record]:
    """Records in the order of a log: the broker's clock runs forward, the events' own lag behind it or are ahead."""
    now, events = NOW_MS, []
    for number, one in enumerate(happened):
        now += one["later"]
        fields = {name: one[name] for name in ("consent", "traffic", "tenant") if one[name] is not None}
        request = number + 100 if one["request"] is None else one["request"]
        made = event(
            f"u{one['user']}",
            f"i{one['item']}",
            one["kind"],
            now - one["old"],
            request_id=str(request),
            value=one["value"],
            **fields,
        )
        events.append(Record(made["user_id"].encode(), orjson.dumps(made), now, number))
    return events


def _manifest(policy: Policy) -> Manifest:
    from schemas.records import Artifact, Manifest

    return Manifest(
        model_version="m",
        dimension=2,
        created_at=0,
        policy=policy,
        hyperparameters={},
        training_data_start=0,
        training_data_end=0,
        cut_offsets={},
        counts={},
        dataset_sha256="0" * 64,
        item_key=KEY.hex(),
        average_user=[0.5, 0.25],
        segments={},
        metrics={},
        gates=[],
        artifact=Artifact("x", {}),
        code_version="test",
    )


@pytest.mark.parametrize("solver", ["cg", "cholesky"])
@pytest.mark.parametrize(
    "options",
    [
        {"session_weight": 0.3, "session_gap_ms": 6 * 3_600_000, "session_entries": 5},
        {"blend_events": 30, "segment_key": "device"},
        {
            "session_weight": 0.3,
            "blend_events": 30,
            "segment_key": "device",
            "recency_entries": 3.0,
            "ridge": 1.0,
            "ridge_nu": 0.5,
            "ridge_alpha0": 0.1,
            "unobserved_power": 0.4,
        },
    ],
    ids=["session", "blend", "all"],
)
def test_what_is_published_equals_the_streams(tmp_path: Path, options: dict[str, Any], solver: Any) -> None:
    """Vector, session and basis of every user, and the row with the segment; and the audit's fresh solve agrees."""
    policy = changed(history_capacity=24, keys_capacity=12, **options)
    events = [
        one | {"context": {"device": DEVICES[len(one["user_id"] + one["item_id"]) % 3], "locale": "nl"}}
        for one in synthetic.load(5, SHAPE).rebase(NOW_MS).events
        if one["event_type"] != "hide"
    ]
    events[7]["context"]["device"] = "one of a kind"
    records = records_of(events)
    settings = settings_of(tmp_path, FACTORS_BOOTSTRAP__SEGMENT_USERS="10").model_copy(update={"policy": policy})
    manifest, model = make(settings, log_of(records, policy), Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
    assert set(manifest.segments) == ({"phone", "desk"} if policy.segment_key else set())
    published: dict[bytes, dict[str, Any]] = {}
    rows, _ = streamed(manifest, model, records, solver, published)
    users = [user.encode() for user in model.users.ids]
    theirs = decode_user_rows([rows[user] for user in users], SHAPE_OF_ROWS)
    ours = model.users.rows(
        slice(0, len(users)),
        model.user_vectors,
        shape=SHAPE_OF_ROWS,
        generation=generation_id(manifest.model_version),
        epochs=np.zeros(2, np.int64),
        version=1,
    )
    assert ours.extras == theirs.extras
    assert bool(policy.segment_key) == any(extras.segment for extras in ours.extras.values())
    server, items = server_of(manifest, model, 1e-6), items_of(manifest, model)
    assert server is not None
    served = server.serve(ours)
    for at, user in enumerate(users):
        record = published[user]
        np.testing.assert_allclose(record["vector"], served.vectors[at], atol=1e-5)
        assert {name: record.get(name) for name in served.made_of(at)} == served.made_of(at)
        assert ("session" in record) == served.has_session[at]
        if served.has_session[at]:
            np.testing.assert_allclose(record["session"], served.session[at], atol=1e-5)
        np.testing.assert_allclose(record["vector"], fresh_vector(theirs, at, manifest, items), atol=1e-5)
    assert set(served.basis) == ({"history", "blend"} if policy.blend_events else {"history"})
    apart = np.abs(served.vectors - theirs.vector).max(axis=1)
    assert np.count_nonzero(apart > 1e-3) > len(users) / 4


DEVICES = ("phone", "desk", "")
SHAPE_OF_ROWS = RowShape(8, 24, 12, 2)
