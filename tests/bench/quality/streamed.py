"""The second half through the worker, test then learn: an event is sent once it has been foretold.

With items standing still users do not depend on each other: one event of each of many users is on its way at a time,
and a user's next event is foretold by the vector that has the last one in it. With items that move, one event is on its
way at all, and the next one waits for the user's vector and the item's.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from kafka import KafkaProducer

from bootstrap.model import Model
from schemas.records import Manifest
from tests.bench.peers.events import F64
from tests.bench.quality.stage import Event
from tests.bench.quality.vectors import Source, Vectors

TOGETHER = 64
_ROUNDING = 1e-5
_WAIT_SECONDS = 60.0

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Streamed:
    """Positions of each event, (T,) each, -1 where not scored.

    low, high: bounds of ``rank`` with every score uncertain by rounding: 1e-5 of the user's length times the item's.
    frozen: by the vectors as they were published at first.
    """

    rank: F64
    low: F64
    high: F64
    frozen: F64


class Replay:
    """See the module docstring."""

    def __init__(
        self, servers: str, prefix: str, manifest: Manifest, model: Model, before: Sequence[Event], *, items_move: bool
    ) -> None:
        self._servers, self._prefix, self._items_move = servers, prefix, items_move
        self._number = {item: at for at, item in enumerate(model.item_ids)}
        self._average = np.array(manifest.average_user, np.float32)
        self._seen: dict[str, list[int]] = defaultdict(list)
        for event in before:
            self._had(event)

    def _had(self, event: Event) -> None:
        number = self._number.get(event["item_id"])
        if number is not None:
            self._seen[event["user_id"]].append(number)

    def run(self, events: Sequence[Event], on_events: Callable[[int], None] = lambda done: None) -> Streamed:
        """Send all; the worker runs and nobody else sends."""
        out = Streamed(*(np.full(len(events), -1.0) for _ in range(4)))
        producer: Any = KafkaProducer(bootstrap_servers=self._servers.split(","), linger_ms=0, acks="all")
        try:
            with (
                Vectors(self._servers, self._prefix, "user") as users,
                Vectors(self._servers, self._prefix, "item") as items,
            ):
                users.catch_up()
                items.catch_up()
                _Run(self, events, out, users, items, producer).go(on_events)
        finally:
            producer.close()
        return out


class _Run:
    """One replay under way. waiting: user -> (event, where it was put)."""

    def __init__(
        self, replay: Replay, events: Sequence[Event], out: Streamed, users: Vectors, items: Vectors, producer: Any
    ) -> None:
        self._replay, self._events, self._out = replay, events, out
        self._users, self._items, self._producer = users, items, producer
        self._topic = f"{replay._prefix}interactions"
        self._matrix: F32 = np.stack([self._vector_of(items, item) for item in replay._number])
        self._lengths = np.linalg.norm(self._matrix, axis=1)
        self._first_items = self._matrix.copy()
        self._first = {user: factor.vector for user, factor in users.newest.items()}
        self._waiting: dict[str, tuple[int, Any]] = {}

    @staticmethod
    def _vector_of(vectors: Vectors, name: str) -> F32:
        vector = vectors.newest[name].vector
        assert vector is not None
        return vector

    def go(self, on_events: Callable[[int], None]) -> None:
        """Foretell, send, wait, until every event is in a vector."""
        queues: dict[str, deque[int]] = defaultdict(deque)
        for number, event in enumerate(self._events):
            # With moving items all events are one queue: the order of all of them counts.
            queues["" if self._replay._items_move else event["user_id"]].append(number)
        ready, done = deque(queues), 0
        heard = time.monotonic()
        while ready or self._waiting:
            while ready and len(self._waiting) < TOGETHER:
                self._send(queues[ready.popleft()].popleft())
            self._producer.flush()
            for number in self._finished():
                name = "" if self._replay._items_move else self._events[number]["user_id"]
                if queues[name]:
                    ready.append(name)
                heard, done = time.monotonic(), done + 1
                on_events(done)
            if time.monotonic() - heard > _WAIT_SECONDS:
                raise TimeoutError(f"no vector for {len(self._waiting)} events within {_WAIT_SECONDS:.0f} s")

    def _send(self, number: int) -> None:
        event = self._events[number]
        user = event["user_id"]
        self._foretell(number, event)
        self._replay._had(event)
        sent = self._producer.send(self._topic, key=user.encode(), value=json.dumps(event).encode())
        self._waiting[user] = number, sent

    def _finished(self) -> list[int]:
        """The events whose vectors have come, their item's too where items move."""
        found = []
        for factor, source in self._users.arrived(50):
            if factor.id in self._waiting and self._holds(source, self._waiting[factor.id][1]):
                number = self._waiting.pop(factor.id)[0]
                if self._replay._items_move:
                    self._await_item(self._events[number]["item_id"])
                found.append(number)
        return found

    @staticmethod
    def _holds(source: Source | None, sent: Any) -> bool:
        place = sent.get(timeout=_WAIT_SECONDS)
        return source is not None and source[0] == place.partition and source[1] >= place.offset

    def _await_item(self, item: str) -> None:
        """One signal a vector: the next version of the item is the one that has the event in it."""
        at = self._replay._number.get(item)
        if at is None:
            return
        deadline = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < deadline:
            for factor, _ in self._items.arrived(50):
                if factor.id == item:
                    self._matrix[at] = self._vector_of(self._items, item)
                    self._lengths[at] = np.linalg.norm(self._matrix[at])
                    return
        raise TimeoutError(f"no vector of {item} within {_WAIT_SECONDS:.0f} s")

    def _foretell(self, number: int, event: Event) -> None:
        replay, out = self._replay, self._out
        at, user = replay._number.get(event["item_id"]), event["user_id"]
        if at is None or at in replay._seen[user]:
            return
        factor = self._users.newest.get(user)
        vector = replay._average if factor is None or factor.vector is None else factor.vector
        others = np.ones(len(self._matrix), bool)
        others[replay._seen[user]] = False
        scores = (self._matrix @ vector)[others]
        mine = float(self._matrix[at] @ vector)
        doubt = _ROUNDING * float(np.linalg.norm(vector)) * (self._lengths[others] + self._lengths[at])
        out.low[number] = np.count_nonzero(scores > mine + doubt)
        out.high[number] = np.count_nonzero(scores >= mine - doubt) - 1
        target = (self._matrix @ vector)[at]
        out.rank[number] = _position(scores, target)
        first = self._first.get(user)
        frozen = self._first_items @ (replay._average if first is None else first)
        out.frozen[number] = _position(frozen[others], frozen[at])


def _position(scores: F32, mine: Any) -> float:
    """From 0; equal scores share their position. ``scores`` holds ``mine``, too."""
    return float(np.count_nonzero(scores > mine) + (np.count_nonzero(scores == mine) - 1) / 2)
