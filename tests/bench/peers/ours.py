"""This project: frozen batch vectors, the user step that solves at every event, and the item step beside it.

The steps are the workers' own, from the bytes of an event to the bytes of the row and of the published record; only
Kafka and the store are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import orjson

from bootstrap.model import Model
from schemas.layouts import HEAD_BYTES, RowShape, encode_user_rows
from schemas.records import FactorRecord, Policy
from streamer.events.hashes import generation_id
from streamer.events.read import Reader
from streamer.steps.effects import Outgoing
from streamer.steps.item import ItemStep, ItemTopics
from streamer.steps.items import Items
from streamer.steps.user import UserStep, UserTopics
from tests.bench.peers.batch import ITEM_KEY, item_id, train, trained, user_id
from tests.bench.peers.events import F64, Split
from tests.streamer.steps.world import FakeRecord, manifest

MODEL = "peers"
SIGNALS, ITEM_FACTORS, USER_FACTORS = "item-signals", "item-factors", "user-factors"
_DAY_MS = 86_400_000
_YEARS_MS = 3650 * _DAY_MS


class Frozen:
    """Batch ALS, never touched again; whoever was not there is given what is popular."""

    def __init__(self, seed: int, *, dimension: int, alpha: float, ridge: float) -> None:
        self._seed, self._k, self._alpha, self._ridge = seed, dimension, alpha, ridge

    def fit(self, split: Split) -> None:
        """Train."""
        self._known = split.known_users
        self._model = train(split, self._k, alpha=self._alpha, ridge=self._ridge, seed=self._seed)

    def scores(self, user: int) -> F64 | None:
        """x.y of every item."""
        return self._model.items @ self._model.users[user] if user < self._known else None

    def learn(self, user: int, item: int) -> None:
        """Nothing moves."""


class Streamed:
    """The steps of the workers, one event a batch; ``sgd_rate`` 0: items stand still and the compiled path runs.

    policy: what differs from the default; training: of `bootstrap.als.Training`.
    """

    def __init__(self, seed: int, *, policy: dict[str, Any], **training: Any) -> None:
        bounds = {"window_ms": _YEARS_MS, "lateness_ms": _YEARS_MS, "keys_window_ms": 2 * _YEARS_MS}
        self.policy = Policy(**{"sgd_rate": 0.0, "history_capacity": 512, **bounds, **policy})
        self._seed, self._training = seed, training
        self.model: Model | None = None

    def fit(self, split: Split) -> None:
        """Train by the batch job, and start the steps where it ends."""
        weight = self.policy.weights["like"]
        model = self.model = trained(split.before, weight, self.policy, self._seed, **self._training)
        dimension = model.items.shape[1]
        self.items = Items(dimension=dimension, ridge=self.policy.ridge, item_key=ITEM_KEY, partitions=1)
        self.items.put(model.item_ids, [1] * len(model.item_ids), model.items)
        self.items.settle()
        self._start_steps(model, dimension)
        self._records = records_of(split)
        self._next = 0
        self._row_of = {user_id(user).encode(): user for user in range(split.users)}
        self._vectors = np.tile(model.average_user, (split.users, 1))
        self._vectors[: split.known_users] = model.user_vectors
        # An item that no kept history holds has no vector, and comes last.
        self._number_of = np.array([int(name.removeprefix("item-")) for name in self.items.space.ids], np.intp)
        self._none = np.full(split.known_items, -np.inf)

    def _start_steps(self, model: Model, dimension: int) -> None:
        made = msgspec.structs.replace(
            manifest(self.policy, dimension, MODEL), item_key=ITEM_KEY.hex(), average_user=model.average_user.tolist()
        )
        topics = UserTopics("interactions", USER_FACTORS, SIGNALS, "dead-letters", 1)
        reader = Reader(self.policy, tenant=None, max_bytes=65_536, invalid_items=frozenset())
        options: dict[str, Any] = {"encoding": "json", "source": "peers"}
        self.user_step = UserStep(made, self.items, topics, reader, solver="cg", tolerance=1e-6, **options)
        if self.policy.sgd_rate:
            # The numpy path keeps what it sends as records, which the item step then reads.
            self.user_step._compiled = self.user_step._encoder = None
        self.item_step = ItemStep(made, self.items, ItemTopics(SIGNALS, ITEM_FACTORS), **options)
        self._user_rows, self._item_rows = dict(_rows(model, self.policy)), dict[bytes, bytes]()
        self._shape = RowShape(dimension, self.policy.history_capacity, self.policy.keys_capacity, 1)

    def scores(self, user: int) -> F64 | None:
        """x.y of every item; somebody new is the average user."""
        scores = self._none.copy()
        scores[self._number_of] = self.items.space.vectors @ self._vectors[user]
        return scores

    def learn(self, user: int, item: int) -> None:
        """The next event, alone in its batch."""
        self.learn_together(1)

    def learn_together(self, count: int) -> None:
        """The next events as one batch, as far as there are any."""
        records = self._records[self._next : self._next + count]
        self._next += len(records)
        batch = self.user_step.read(records, 0)
        effects = self.user_step.apply(batch, [self._user_rows.get(key) for key in batch.keys])
        for key, row in effects.rows:
            self._user_rows[key] = row
            self._vectors[self._row_of[key]] = np.frombuffer(row, "<f4", self._shape.dimension, HEAD_BYTES)
        if self.policy.sgd_rate:
            self._move_items(effects.sends.get((SIGNALS, 0), []))
        else:
            self.user_step.reuse(effects)

    def _move_items(self, signals: list[Outgoing]) -> None:
        found = [FakeRecord(key, value, offset) for offset, (key, value, _, _) in enumerate(signals)]
        batch = self.item_step.read(found, 0)
        effects = self.item_step.apply(batch, [self._item_rows.get(key) for key in batch.keys])
        self._item_rows.update(effects.rows)
        for _, value, _, _ in effects.sends.get((ITEM_FACTORS, 0), []):
            factor = msgspec.json.decode(value or b"", type=FactorRecord)
            self.items.put([factor.id], [factor.version], np.array([factor.vector], np.float32))


class Retrained:
    """`Frozen`, fitted anew on all events at every ``every``-th one."""

    def __init__(self, seed: int, *, every: int, **parameters: Any) -> None:
        self._seed, self._every, self._parameters = seed, every, parameters

    def fit(self, split: Split) -> None:
        """The first fit."""
        self._split, self._learnt = split, 0
        self._refit()

    def _refit(self) -> None:
        split, learnt = self._split, self._learnt
        before = split.before.joined(split.after.part(slice(0, learnt)))
        known = int(before.user.max()) + 1
        now = Split(before, split.after, known, int(before.item.max()) + 1, split.users, split.items)
        self._frozen = Frozen(self._seed, **self._parameters)
        self._frozen.fit(now)

    def scores(self, user: int) -> F64 | None:
        """The newest fit's."""
        return self._frozen.scores(user)

    def learn(self, user: int, item: int) -> None:
        """Count, and fit when it is time."""
        self._learnt += 1
        if self._learnt % self._every == 0:
            self._refit()


def records_of(split: Split) -> list[FakeRecord]:
    """The events after the cut as a broker would hand them over."""
    out = []
    events = zip(split.after.user.tolist(), split.after.item.tolist(), split.after.at.tolist(), strict=True)
    for offset, (user, item, at) in enumerate(events):
        body = {
            "request_id": f"{user}-{item}",
            "user_id": user_id(user),
            "item_id": item_id(item),
            "event_type": "like",
            "timestamp": at,
        }
        out.append(FakeRecord(user_id(user).encode(), orjson.dumps(body), offset, at))
    return out


def _rows(model: Model, policy: Policy) -> Iterator[tuple[bytes, bytes]]:
    """(key, row) of every user at the cut."""
    shape = RowShape(model.items.shape[1], policy.history_capacity, policy.keys_capacity, 1)
    rows = model.users.rows(
        slice(None),
        model.user_vectors,
        shape=shape,
        generation=generation_id(MODEL),
        epochs=np.zeros(1, np.int64),
        version=1,
    )
    yield from zip((name.encode() for name in model.users.ids), encode_user_rows(rows), strict=True)
