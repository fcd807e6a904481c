"""A process of its own that reads the published vectors as any consumer would, and notes when each arrived.

``python -m ops.demo.measure SERVERS PREFIX OUT``: one JSON line a record, the first ``ready``; ends with SIGTERM.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from kafka import KafkaConsumer, TopicPartition

SOURCE = "factors.source"


def main(servers: str, prefix: str, out: Path) -> None:
    """Follow both factor topics from their present end, committed records only."""
    topics = [f"{prefix}user-factors", f"{prefix}item-factors"]
    consumer = KafkaConsumer(
        bootstrap_servers=servers.split(","), group_id=None, isolation_level="read_committed", fetch_max_wait_ms=5
    )
    places = [
        TopicPartition(topic, number) for topic in topics for number in sorted(consumer.partitions_for_topic(topic))
    ]
    consumer.assign(places)
    consumer.seek_to_end(*places)
    for place in places:
        consumer.position(place)
    with out.open("w") as lines:
        lines.write('{"ready": true}\n')
        lines.flush()
        while True:
            fetched = consumer.poll(timeout_ms=50)
            at = time.time() * 1000.0
            for place, records in fetched.items():
                for record in records:
                    headers = dict(record.headers)
                    note = {
                        "kind": "user" if place.topic == topics[0] else "item",
                        "id": record.key.decode(),
                        "version": int(headers["ce_id"].rpartition(b"/")[2]),
                        "source": headers[SOURCE].decode(),
                        "at": at,
                    }
                    lines.write(json.dumps(note) + "\n")
            lines.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
