"""A small world for the step tests: a manifest, items with vectors, records as a broker would hand them over."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from kafka.record.default_records import DefaultRecordBatch

from schemas.records import Artifact, Manifest, Policy
from streamer.events.read import Reader
from streamer.factors.ridge import ridge_of
from streamer.steps.effects import Effects, Encoded, Outgoing
from streamer.steps.items import Items
from streamer.steps.user import UserStep, UserTopics
from streamer.steps.wire import encode_batch

NOW = 1_800_000_000_000
TOPICS = UserTopics("t.interactions", "t.user-factors", "t.item-signals", "t.dead-letters", 1)


@dataclass(frozen=True, slots=True)
class FakeRecord:
    """What the steps read of a consumer record."""

    key: bytes | None
    value: bytes | None
    offset: int
    timestamp: int = NOW
    partition: int = 0
    headers: tuple[tuple[str, bytes | None], ...] = field(default_factory=tuple)


def event(**changes: Any) -> dict[str, Any]:
    """A good click, changed."""
    return {
        "request_id": "r1",
        "user_id": "ann",
        "item_id": "i1",
        "event_type": "click",
        "timestamp": NOW,
    } | changes


def record(offset: int, body: dict[str, Any], **changes: Any) -> FakeRecord:
    """A record at an offset, keyed by its user."""
    return FakeRecord(
        **({"key": body["user_id"].encode(), "value": json.dumps(body).encode(), "offset": offset} | changes)
    )


def manifest(policy: Policy, dimension: int = 8, model_version: str = "m1") -> Manifest:
    """A manifest with an average user that no solve gives."""
    return Manifest(
        model_version=model_version,
        dimension=dimension,
        created_at=0,
        policy=policy,
        hyperparameters={},
        training_data_start=0,
        training_data_end=7,
        cut_offsets={},
        counts={"items": 20},
        dataset_sha256="0" * 64,
        item_key="0f" * 16,
        average_user=[0.25] * dimension,
        segments={},
        metrics={},
        gates=[],
        artifact=Artifact("x", {}),
        code_version="test",
    )


def items(policy: Policy, count: int = 20, dimension: int = 8, seed: int = 0) -> Items:
    """Items i0 .. with vectors."""
    made = Items(dimension=dimension, ridge=ridge_of(policy, count), item_key=bytes.fromhex("0f" * 16), partitions=2)
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    made.put([f"i{number}" for number in range(count)], [1] * count, vectors)
    made.settle()
    return made


def user_step(
    policy: Policy,
    solver: Literal["cg", "cholesky"] = "cholesky",
    view: Items | None = None,
    *,
    fast: bool = True,
    model_version: str = "m1",
    encoding: Literal["json", "f32le"] = "json",
    sample: float = 0.0,
    made: Manifest | None = None,
    among: dict[str, Any] | None = None,
    **reader: Any,
) -> UserStep:
    """A user step over `items`; without ``fast`` the numpy path does it all.

    ``among``: what it is told of other generations (founding, shapes, told).
    """
    view = items(policy) if view is None else view
    step = UserStep(
        made or manifest(policy, view.space.dimension, model_version),
        view,
        TOPICS,
        Reader(policy, **({"tenant": None, "max_bytes": 65_536, "invalid_items": view.invalid} | reader)),
        solver=solver,
        tolerance=1e-6,
        encoding=encoding,
        source="test",
        sample=sample,
        **(among or {}),
    )
    if not fast:
        step._compiled = step._encoder = None
    return step


def run(step: UserStep, records: list[FakeRecord], cuts: list[int], rows: dict[bytes, bytes]) -> list[Any]:
    """Apply records cut into batches at ``cuts``; rows change as the store's would. Returns the effects."""
    effects = []
    bounds = [0, *sorted({cut for cut in cuts if 0 < cut < len(records)}), len(records)]
    for low, high in pairwise(bounds):
        batch = step.read(records[low:high], 0)
        done = step.apply(batch, [rows.get(key) for key in batch.keys])
        rows.update(done.rows)
        effects.append(decoded(done))
    return effects


def decoded(effects: Effects) -> Effects:
    """Put what was encoded among the sends, read by another Kafka client's own parser."""
    for target, batches in effects.encoded.items():
        sends = [one for batch in batches for one in records_of(batch)]
        effects.sends[target] = sends + effects.sends.get(target, [])
    effects.encoded = {}
    changelog = [(key, value) for batch in effects.changelog for key, value, _, _ in records_of(batch)]
    assert changelog == effects.rows[: len(changelog)]
    return effects


def records_of(encoded: Encoded) -> list[Outgoing]:
    """The records of one, their checksum and their order checked."""
    data = encode_batch(encoded.data, encoded.count, (), now=NOW, producer=(7, 1), sequence=3)
    batch = DefaultRecordBatch(b"".join(data))
    assert batch.validate_crc()
    assert batch.is_transactional
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (7, 1, 3)
    found = list(batch)
    assert [one.offset for one in found] == list(range(encoded.count))
    assert all(one.timestamp == NOW for one in found)
    return [(one.key, one.value, None, list(one.headers)) for one in found]
