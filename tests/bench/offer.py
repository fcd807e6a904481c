"""A process of its own that offers events at a steady rate, each stamped with the moment it is handed over.

``python -m tests.bench.offer SERVERS TOPIC RATE SECONDS ROUND WORLD`` where WORLD is the world's sizes as JSON. Ends
with one JSON line: events sent, seconds taken, and how late the latest one was, in milliseconds.
"""

from __future__ import annotations

import json
import sys
import time

from confluent_kafka import Producer

from tests.bench.world import TYPES, World, event

_LINGER_MS = 2
_TICK_SECONDS = 0.001


def main(servers: str, topic: str, rate: float, seconds: float, round_: int, world: World) -> None:
    """Offer, and say how it went."""
    count = int(rate * seconds)
    users, items, kinds = world.drawn(count, round_)
    partitions = world.partition_of[users].tolist()
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "linger.ms": _LINGER_MS,
            "acks": "all",
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    producer.list_topics(topic, timeout=10)
    latest, started = 0.0, time.monotonic()
    for number, (user, item, kind) in enumerate(zip(users.tolist(), items, kinds, strict=True)):
        ahead = started + number / rate - time.monotonic()
        if ahead > 0:
            producer.poll(0)
            time.sleep(max(ahead, _TICK_SECONDS))
        else:
            latest = max(latest, -ahead)
        key, value = event(user, item, TYPES[kind], int(time.time() * 1000), f"o{round_}-{number}")
        producer.produce(topic, value, key, partition=partitions[number])
    producer.flush(30)
    took = time.monotonic() - started
    print(json.dumps({"sent": count, "seconds": took, "latest_ms": 1e3 * latest}))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        arguments[0],
        arguments[1],
        float(arguments[2]),
        float(arguments[3]),
        int(arguments[4]),
        World(**json.loads(arguments[5])),
    )
