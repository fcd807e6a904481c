"""A process of its own that reads published vectors, committed ones only, and notes when each arrived.

``python -m tests.bench.arrive SERVERS TOPIC OUT``: prints ``ready``, reads until SIGTERM, then writes OUT (.npy): one
row a record, the event time in it and the time of its arrival, both in milliseconds since 1970.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_END, Consumer, TopicPartition

_FIELD = b'"event_time":'
_MOST = 2_000


def main(servers: str, topic: str, out: Path) -> None:
    """Follow the topic from its present end."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "bench-arrive",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
        }
    )
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    wanted = [TopicPartition(topic, number, OFFSET_END) for number in partitions]
    consumer.assign(wanted)
    consumer.poll(1.0)  # asks for the ends before anything is sent
    print("ready", flush=True)
    arrived: list[tuple[float, list[Any]]] = []
    while not stopped:
        first = consumer.poll(0.05)
        if first is not None:
            # The time of the first stands for all that lay ready with it.
            arrived.append((time.time() * 1e3, [first, *consumer.consume(_MOST, timeout=0)]))
    rows = [(_event_time(message.value()), at) for at, messages in arrived for message in messages]
    np.save(out, np.array(rows, np.float64).reshape(-1, 2))
    consumer.close()


def _event_time(value: bytes) -> float:
    """The field, without decoding the whole: this process shares the cores with what it measures."""
    start = value.rindex(_FIELD) + len(_FIELD)
    return float(value[start : value.index(b",", start)])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
