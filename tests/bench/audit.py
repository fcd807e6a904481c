"""Is fast also right? Published vectors against a fresh float64 Cholesky solve, written here anew.

    (V'V + ridge I + sum (c-1) v v') x = sum q v

Takes rows from the ends of the changelog's partitions, where the fastest rounds wrote, and the vectors published with
them. The strengths and confidences are the product's; the solve is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from confluent_kafka import Consumer, Message, TopicPartition

from schemas.layouts import MARKER_KEY, UserRows, decode_user_rows
from streamer.factors.solve import solve_batch
from streamer.factors.weigh import confidence_array, strength_at
from tests.bench.cluster import PREFIX
from tests.bench.world import World

_TAIL = 1_000
"""Offsets read from the end of each partition."""


@dataclass(frozen=True, slots=True)
class Audit:
    """largest_error: of |x - x*| / |x*| over the users; iterations: steps that the solver takes for such rows.

    history: average entries of a row; the bytes are those of one row and of one published record, on average.
    """

    users: int
    largest_error: float
    median_error: float
    iterations: int
    history: float
    row_bytes: float
    record_bytes: float

    def lines(self) -> list[str]:
        """For people."""
        return [
            (
                f"audit: {self.users} users, largest relative error {self.largest_error:.1e} "
                f"(median {self.median_error:.1e}) against a fresh float64 Cholesky solve"
            ),
            (
                f"solver: at most {self.iterations} iterations; average history {self.history:.1f} entries; "
                f"a row {self.row_bytes:.0f} bytes, a published record {self.record_bytes:.0f} bytes"
            ),
        ]


def audit(servers: str, world: World, tolerance: float) -> Audit:
    """Compare what stands at the ends of user-state and user-factors."""
    rows = {message.key(): message for message in _tail(servers, "user-state", world) if message.key() != MARKER_KEY}
    records = {message.key(): message for message in _tail(servers, "user-factors", world)}
    keys = [key for key in rows if key in records]
    published = [orjson.loads(records[key].value() or b"") for key in keys]
    decoded = decode_user_rows([rows[key].value() for key in keys], world.shape)
    same = decoded.head["version"] == [record["version"] for record in published]
    vectors = np.array([record["vector"] for record in published], np.float64)[same]
    chosen = np.flatnonzero(same)
    index, confidence = _systems(decoded, world)
    exact = np.stack([_solve(index[row], confidence[row], world) for row in chosen.tolist()])
    errors = np.linalg.norm(vectors - exact, axis=1) / np.linalg.norm(exact, axis=1)
    return Audit(
        users=len(errors),
        largest_error=float(errors.max()),
        median_error=float(np.median(errors)),
        iterations=_iterations(decoded, world, tolerance),
        history=float(decoded.head["entries"].mean()),
        row_bytes=_mean([rows[key] for key in keys]),
        record_bytes=_mean([records[key] for key in keys]),
    )


def _systems(rows: UserRows, world: World) -> tuple[np.ndarray, np.ndarray]:
    """Item indexes, -1 where unused, and confidences: (B, H) each."""
    place = {name: number for number, name in enumerate(world.hashes.tolist())}
    used = np.arange(world.capacity) < rows.head["entries"][:, None]
    index = np.array([[place.get(name, -1) for name in row] for row in rows.item.tolist()])
    now = rows.time.max(axis=1, keepdims=True)
    strength = strength_at(rows.strength, rows.time, now, world.policy.half_life_ms)
    return np.where(used, index, -1), confidence_array(strength, world.policy)


def _solve(index: np.ndarray, confidence: np.ndarray, world: World) -> np.ndarray:
    v, c = world.vectors[index[index >= 0]].astype(np.float64), confidence[index >= 0]
    system = world.gramian + world.policy.ridge * np.eye(world.dimension) + (v.T * (c - 1.0)) @ v
    factor = np.linalg.cholesky(system)
    right = v.T @ (c if world.policy.rhs == "c" else c - 1.0)
    return np.linalg.solve(factor.T, np.linalg.solve(factor, right))


def _iterations(rows: UserRows, world: World, tolerance: float) -> int:
    """Steps for these rows when each starts where it was before its newest entry, as in the stream."""
    index, confidence = _systems(rows, world)
    newest = rows.time.argmax(axis=1)
    before, every = index.copy(), np.arange(len(rows))
    before[every, newest] = -1
    space, rhs = world.space(), world.policy.rhs
    start = solve_batch(space, before.astype(np.int32), confidence, rhs, None, tolerance).vectors
    return solve_batch(space, index.astype(np.int32), confidence, rhs, start, tolerance).iterations


def _tail(servers: str, topic: str, world: World) -> list[Message]:
    """The last records of each partition, in log order within each; committed ones only."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "bench-audit", "enable.partition.eof": True})
    found: list[Message] = []
    try:
        places = [TopicPartition(PREFIX + topic, number) for number in range(world.partitions)]
        for place in places:
            low, high = consumer.get_watermark_offsets(place, timeout=10)
            place.offset = max(low, high - _TAIL)
        consumer.assign(places)
        ended = 0
        while ended < len(places):
            message = consumer.poll(10.0)
            if message is None:
                raise TimeoutError(f"{topic} could not be read to its end")
            if message.error() is not None:
                ended += 1
            else:
                found.append(message)
    finally:
        consumer.close()
    return found


def _mean(messages: Sequence[Message]) -> float:
    return float(np.mean([len(message.value() or b"") for message in messages]))
