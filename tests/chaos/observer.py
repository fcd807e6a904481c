"""Watches from outside when which partition commits, as a reader of committed records would see it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, TopicPartition


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction seen: when it arrived (monotonic, s) and when its worker made it (wall clock, s)."""

    arrived: float
    made: float


class Observer:
    """Collects the changelog's markers, one a transaction, in a thread; use as a context manager."""

    def __init__(self, bootstrap_servers: str, topic: str, partitions: int) -> None:
        self._commits: dict[int, list[Commit]] = {number: [] for number in range(partitions)}
        self._stop = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"{topic}-observer",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
            }
        )
        self._consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        self._thread = threading.Thread(target=self._watch, name="observer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)
        self._consumer.close()

    def _watch(self) -> None:
        while not self._stop.is_set():
            message: Any = self._consumer.poll(0.2)
            if message is not None and message.error() is None and message.key() == b"":
                commit = Commit(time.monotonic(), message.timestamp()[1] / 1000)
                self._commits[message.partition()].append(commit)

    def transactions(self) -> int:
        """How many were seen so far."""
        return sum(map(len, self._commits.values()))

    def first_made_after(self, number: int, wall: float) -> Commit | None:
        """The first transaction of a partition that was made after this wall-clock time."""
        # From the end: there may be many thousands, and only the last few are asked for.
        found = None
        for commit in reversed(self._commits[number]):
            if commit.made <= wall:
                break
            found = commit
        return found

    def longest_gap(self, number: int, since: float, until: float) -> float:
        """The longest time without a commit of a partition, between two monotonic times."""
        arrivals = [commit.arrived for commit in self._commits[number] if since <= commit.arrived <= until]
        points = [since, *arrivals, until]
        return max(later - earlier for earlier, later in pairwise(points))
