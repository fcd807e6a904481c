"""Stock Faust, for comparison: one Table get, one Table set and one send an event, and no maths.

Its RocksDB store, raw serializers, the Cython loops, a large stream buffer, no linger, large producer batches:
of what its documentation offers, what was fastest here. Run as ``python -m tests.bench.stock worker``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import faust

GROUP = "bench-stock"

app = faust.App(
    GROUP,
    broker=f"kafka://{os.environ.get('BENCH_SERVERS', '127.0.0.1:9092')}",
    store="rocksdb://",
    datadir=os.environ.get("BENCH_STATE", ".cache/bench/stock"),
    topic_partitions=int(os.environ.get("BENCH_PARTITIONS", "8")),
    key_serializer="raw",
    value_serializer="raw",
    stream_buffer_maxsize=65_536,
    producer_linger=0,
    producer_max_batch_size=1 << 20,
    broker_commit_interval=0.5,
    topic_disable_leader=True,
    web_enabled=False,
    cython_optimizations=True,
    consumer_auto_offset_reset="earliest",
)
events = app.topic("factors.interactions", key_type=bytes, value_type=bytes)
out = app.topic("bench.stock-out", key_type=bytes, value_type=bytes)
table = app.Table("stock-state", default=bytes, key_type=bytes, value_type=bytes)


@app.agent(events)
async def keep(stream: faust.StreamT[Any]) -> AsyncIterator[None]:
    """Read the user's value, write the event as the new one, send it on."""
    async for event in stream.events():
        previous = table[event.key]
        table[event.key] = event.value
        await out.send(key=event.key, value=event.value + previous[:0])
        yield


if __name__ == "__main__":
    app.main()
