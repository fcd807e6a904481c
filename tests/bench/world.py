"""The world that is measured: a catalogue, users with kept histories, and events; all from one seed.

Item vectors have a falling spectrum and popular items have the longer vectors, as trained ones do. A user's vector is
the exact solve of the history in the row, as the worker would have left it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.layouts import RowShape, UserRows, empty_user_rows, encode_user_rows
from schemas.records import DAY_MS, Artifact, Manifest, Policy
from streamer.events.hashes import generation_id, item_hash, partition
from streamer.factors.ridge import ridge_in
from streamer.factors.solve import solve_batch
from streamer.factors.space import ItemSpace
from streamer.factors.weigh import confidence_array, strength_at

MODEL = "bench"
ITEM_KEY = "0" * 32
TYPES = (
    *("view", "click", "like", "cart", "watch_complete", "purchase"),
    *("hide", "dislike", "return"),
)
MIX = (0.55, 0.30, 0.06, 0.04, 0.03, 0.01, 0.005, 0.003, 0.002)
REPEATED = 0.005
"""Share of events that are sent twice, as a producer that retries sends them."""
_BLOCK = 4_000

Message = tuple[bytes, bytes]
"""Key and value."""


@dataclass(frozen=True)
class World:
    """What is measured on.

    users: how many have a row; history: average entries of one; capacity, keys: the policy's bounds;
    plain: clicks alone, each sent once, instead of `MIX`; options: fields of the policy.
    """

    users: int = 200_000
    items: int = 10_000
    dimension: int = 64
    history: int = 50
    capacity: int = 64
    keys: int = 32
    partitions: int = 8
    seed: int = 7
    plain: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    now: int = field(default_factory=lambda: int(time.time() * 1000))

    @cached_property
    def policy(self) -> Policy:
        """The product's defaults but for the bounds of a row."""
        return Policy(history_capacity=self.capacity, keys_capacity=self.keys, **self.options)

    @cached_property
    def manifest(self) -> Manifest:
        """A generation that nothing was trained for."""
        return Manifest(
            model_version=MODEL,
            dimension=self.dimension,
            created_at=self.now,
            policy=self.policy,
            hyperparameters={},
            training_data_start=0,
            training_data_end=self.now,
            cut_offsets={},
            counts={"items": self.items},
            dataset_sha256="0" * 64,
            item_key=ITEM_KEY,
            average_user=[0.01] * self.dimension,
            segments={},
            metrics={},
            gates=[],
            artifact=Artifact("memory://", {}),
            code_version="bench",
        )

    @cached_property
    def popularity(self) -> npt.NDArray[np.float64]:
        """(items,) share of the events, falling as a power of the rank."""
        share = (np.arange(self.items) + 10.0) ** -0.8
        normal: npt.NDArray[np.float64] = share / share.sum()
        return normal

    @cached_property
    def vectors(self) -> npt.NDArray[np.float32]:
        """(items, k) item vectors."""
        draw = np.random.default_rng(self.seed)
        spectrum = (np.arange(self.dimension) + 1.0) ** -0.4
        length = (self.popularity / self.popularity.mean()) ** 0.25
        vectors = draw.standard_normal((self.items, self.dimension)) * spectrum * length[:, None] * 0.3
        small: npt.NDArray[np.float32] = vectors.astype(np.float32)
        return small

    @cached_property
    def gramian(self) -> npt.NDArray[np.float64]:
        """V'V in float64."""
        wide = self.vectors.astype(np.float64)
        product: npt.NDArray[np.float64] = wide.T @ wide
        return product

    @cached_property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """(items,) what rows call the items."""
        key = bytes.fromhex(ITEM_KEY)
        return np.array([item_hash(item_id(item), key) for item in range(self.items)], np.uint64)

    @cached_property
    def partition_of(self) -> npt.NDArray[np.int64]:
        """(users,) the partition of each user."""
        return np.fromiter((partition(user_id(user), self.partitions) for user in range(self.users)), np.int64)

    @cached_property
    def shape(self) -> RowShape:
        """The shape of the users' rows."""
        return RowShape(self.dimension, self.capacity, self.keys, self.partitions)

    def space(self) -> ItemSpace:
        """The item vectors as the worker holds them before any of them moves."""
        space = ItemSpace(self.dimension, ridge_in(self.manifest))
        index = space.add([item_id(item) for item in range(self.items)], self.hashes)
        space.put(index, self.vectors)
        space.recount()
        space.refactor()
        return space

    def rows(self) -> Iterator[tuple[int, Message]]:
        """(partition, (key, row)) of every user."""
        space, draw = self.space(), np.random.default_rng(self.seed + 1)
        for first in range(0, self.users, _BLOCK):
            users = np.arange(first, min(first + _BLOCK, self.users))
            encoded = encode_user_rows(self._solved(draw, len(users), space))
            for user, row in zip(users.tolist(), encoded, strict=True):
                yield int(self.partition_of[user]), (user_id(user), row)

    def _solved(self, draw: np.random.Generator, count: int, space: ItemSpace) -> UserRows:
        rows, policy = empty_user_rows(count, self.shape), self.policy
        entries = np.clip(draw.normal(self.history, self.history / 8, count), 1, self.capacity).astype(np.int64)
        items = self._distinct_items(draw, count)
        used = np.arange(self.capacity) < entries[:, None]
        rows.item[:] = np.where(used, self.hashes[items], 0)
        rows.time[:] = np.where(used, self.now - draw.integers(60_000, 60 * DAY_MS, used.shape), 0)
        rows.strength[:] = np.where(used, draw.gamma(1.5, 1.0, used.shape) + 0.25, 0)
        rows.request[:] = draw.integers(1, 2**63, rows.request.shape)
        rows.fingerprint[:] = draw.integers(0, 2**32, rows.fingerprint.shape)
        newest = rows.time.max(axis=1)
        rows.key_time[:] = (newest[:, None] - draw.integers(0, DAY_MS, rows.request.shape)) // 1000
        index = np.where(used, space.lookup(rows.item), -1)
        strength = strength_at(rows.strength, rows.time, newest[:, None], policy.half_life_ms)
        confidence = confidence_array(strength, policy)
        rows.vector[:] = solve_batch(space, index, confidence, policy.rhs, None, 1e-6).vectors
        rows.head["entries"], rows.head["keys"] = entries, self.keys
        rows.head["generation"], rows.head["version"] = generation_id(MODEL), 1
        rows.head["events"], rows.head["event_time"] = entries, newest
        return rows

    def _distinct_items(self, draw: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        """(count, capacity) distinct popular items of each user: drawn twice over, repetitions dropped."""
        drawn = self._items(draw, (count, 2 * self.capacity))
        order = np.argsort(drawn, axis=1, kind="stable")
        ordered = np.take_along_axis(drawn, order, axis=1)
        again = np.zeros_like(drawn, dtype=bool)
        repeated = np.r_[np.zeros((1, count), bool), (ordered[:, 1:] == ordered[:, :-1]).T].T
        np.put_along_axis(again, order, repeated, axis=1)
        first = np.argsort(again, axis=1, kind="stable")[:, : self.capacity]
        return np.take_along_axis(drawn, first, axis=1)

    def _items(self, draw: np.random.Generator, shape: tuple[int, ...] | int) -> npt.NDArray[np.int64]:
        return np.searchsorted(np.cumsum(self.popularity)[:-1], draw.random(shape)).astype(np.int64)

    def events(self, count: int, round_: int) -> Iterator[tuple[int, Message]]:
        """(partition, (key, event)) of ``count`` events of users drawn evenly, at this moment.

        Never the same ids for two values of ``round_``.
        """
        users, items, kinds = self.drawn(count, round_)
        again = np.random.default_rng((self.seed, 3, round_)).random(count) < (0.0 if self.plain else REPEATED)
        partitions = self.partition_of[users].tolist()
        at, previous = int(time.time() * 1000), None
        whole = zip(users.tolist(), items, kinds, partitions, again.tolist(), strict=True)
        for number, (user, item, kind, where, repeats) in enumerate(whole):
            message = where, event(user, item, TYPES[kind], at, f"{round_}-{number}")
            yield previous if repeats and previous is not None else message
            previous = message

    def drawn(self, count: int, round_: int) -> tuple[npt.NDArray[np.int64], list[int], list[int]]:
        """Users, items and event types (numbers in `TYPES`) of the events of a round."""
        draw = np.random.default_rng((self.seed, 2, round_))
        users = draw.integers(0, self.users, count)
        kinds = [TYPES.index("click")] * count if self.plain else draw.choice(len(TYPES), count, p=MIX).tolist()
        return users, self._items(draw, count).tolist(), kinds


def user_id(user: int) -> bytes:
    """The key of a user."""
    return b"user-%06d" % user


def item_id(item: int) -> str:
    """The id of an item."""
    return f"item-{item:05d}"


def event(user: int, item: int, kind: str, at: int, request: str) -> Message:
    """One interaction as a producer writes it."""
    key = user_id(user)
    value = (
        f'{{"request_id":"{request}","user_id":"{key.decode()}","item_id":"{item_id(item)}",'
        f'"event_type":"{kind}","timestamp":{at}}}'
    )
    return key, value.encode()
