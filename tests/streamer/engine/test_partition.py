"""What a partition says of itself while a rebalance holds it up."""

from __future__ import annotations

import time
from typing import Any

from aiokafka.structs import TopicPartition

from streamer.engine.partition import Partition


class Listener:
    """Hears the states of a partition; stands for every other part, which nothing here touches."""

    name, step, max_batch_events = "users", None, 8

    def __init__(self) -> None:
        self.states: list[str] = []

    def state(self, role: str, partition: int, state: str, share: float = 0.0) -> None:
        """Note it."""
        self.states.append(state)


async def test_a_rebalance_that_does_not_end_is_told_once_and_taken_back() -> None:
    """`/readyz` would else say yes for as long as a worker sits in no group."""
    listener: Any = Listener()
    partition = Partition(TopicPartition("t", 3), listener, listener, listener, listener)
    partition.ready = True
    now = time.monotonic()
    assert not partition.paused_long(now + 1_000), "it is not paused"
    await partition.pause(0.1)
    assert not partition.paused_long(now + 5)
    assert partition.paused_long(now + 100)
    assert not partition.paused_long(now + 200), "once is enough"
    assert listener.states == ["paused"]
    partition._unpause()
    assert listener.states == ["paused", "ready"]
    partition._unpause()
    assert listener.states == ["paused", "ready"]
