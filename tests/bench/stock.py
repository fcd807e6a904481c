"""Stock Faust, for comparison: one Table get, one Table set and one send an event, and no maths.

What an application by the book would do with the best settings that the documentation offers, and then some: its
RocksDB store, raw serializers (nothing is decoded), the Cython loops, uvloop, a large stream buffer, no linger, large
producer batches, no standby, no web server, no leader topic. `python -m tests.bench --stock` tries others beside it.
The value kept and the value sent are as long as a float32 vector of 64; ours publishes far more.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import faust

GROUP = "bench-stock"
VECTOR = b"\0" * 256


def _option(name: str, default: str) -> str:
    return os.environ.get(f"BENCH_STOCK_{name.upper()}", default)


app = faust.App(
    GROUP,
    broker=f"kafka://{os.environ.get('BENCH_SERVERS', '127.0.0.1:9092')}",
    # On the app: as an argument of a Table the same URL is silently ignored.
    store="rocksdb://",
    datadir=os.environ.get("BENCH_STATE", ".cache/bench/stock"),
    topic_partitions=int(os.environ.get("BENCH_PARTITIONS", "8")),
    table_standby_replicas=0,
    key_serializer="raw",
    value_serializer="raw",
    stream_buffer_maxsize=int(_option("buffer", "65536")),
    producer_linger=float(_option("linger", "0")),
    producer_max_batch_size=int(_option("batch", str(1 << 20))),
    broker_commit_interval=float(_option("commit", "0.5")),
    topic_disable_leader=True,
    web_enabled=False,
    cython_optimizations=_option("cython", "True") == "True",
    consumer_auto_offset_reset="earliest",
)
events = app.topic("factors.interactions-stock", key_type=bytes, value_type=bytes)
out = app.topic("bench.stock-out", key_type=bytes, value_type=bytes)
table = app.Table("stock-state", default=bytes, key_type=bytes, value_type=bytes)


async def _awaited(stream: faust.StreamT[Any]) -> AsyncIterator[None]:
    async for key, _value in stream.items():  # noqa: PERF102 - a stream, not a dict
        previous = table[key]
        table[key] = VECTOR
        await out.send(key=key, value=VECTOR if previous is not None else b"")
        yield


async def _soon(stream: faust.StreamT[Any]) -> AsyncIterator[None]:
    async for key, _value in stream.items():  # noqa: PERF102 - a stream, not a dict
        previous = table[key]
        table[key] = VECTOR
        out.send_soon(key=key, value=VECTOR if previous is not None else b"")
        yield


app.agent(events, name="keep")(_soon if _option("send", "await") == "soon" else _awaited)

if __name__ == "__main__":
    app.main()
