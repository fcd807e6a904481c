"""Send events as a producer would, and remember when each one left."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

from kafka import KafkaProducer

Event = dict[str, Any]
_TICK = 0.01


class Sender:
    """``sent``: ``topic/partition/offset`` -> milliseconds since 1970 when the event was handed to the producer."""

    def __init__(self, servers: str, topic: str) -> None:
        self.topic = topic
        self.sent: dict[str, float] = {}
        self._producer = KafkaProducer(bootstrap_servers=servers.split(","), linger_ms=2)

    def send(self, events: Iterable[Event], rate: float) -> float:
        """Send at ``rate`` events a second and wait until all are taken; returns the seconds it took."""
        began = time.monotonic()
        waiting = []
        for number, event in enumerate(events):
            ahead = began + number / rate - time.monotonic()
            if ahead > _TICK:
                time.sleep(ahead)
            at = time.time() * 1000.0
            value = json.dumps(event).encode()
            waiting.append((at, self._producer.send(self.topic, key=event["user_id"].encode(), value=value)))
        self._producer.flush()
        for at, future in waiting:
            taken = future.get(timeout=30)
            self.sent[f"{self.topic}/{taken.partition}/{taken.offset}"] = at
        return time.monotonic() - began

    def close(self) -> None:
        """Close the producer."""
        self._producer.close()
