"""The ceiling: a bare aiokafka loop that reads and commits, and does nothing else."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiokafka import AIOKafkaConsumer

GROUP = "bench-bare"


async def main(servers: str, topic: str) -> None:
    """Read for ever, committing each fetch."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=servers,
        group_id=GROUP,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=1 << 20,
    )
    async with consumer:
        while True:
            if await consumer.getmany(timeout_ms=100, max_records=20_000):
                await consumer.commit()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(sys.argv[1], sys.argv[2]))
