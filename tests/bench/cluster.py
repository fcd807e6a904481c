"""The broker's side of a measurement: topics as the product makes them, and records in bulk."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
from aiokafka import AIOKafkaProducer
from confluent_kafka import Consumer, KafkaException, TopicPartition
from kafka import KafkaAdminClient

from schemas.records import Control
from streamer.events.hashes import partition
from tests.bench.world import MODEL, Message, World, item_id

ROOT = Path(__file__).parents[2]
PREFIX = "factors."
_BATCH_BYTES = 1 << 20
_IN_FLIGHT = 16
_TRIES = 50

Placed = tuple[int, Message]
"""Partition, (key, value)."""


def environment(servers: str, **settings: str | int) -> dict[str, str]:
    """A process's environment with settings of the product, ``engine__tolerance=1e-6`` for one."""
    chosen = {f"FACTORS_{name.upper()}": str(value) for name, value in settings.items()}
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "FACTORS_KAFKA__BOOTSTRAP_SERVERS": servers,
        "FACTORS_LOG__FORMAT": "json",
        **chosen,
    }


def create_topics(servers: str, partitions: int) -> None:
    """The product's own `topics create`."""
    command = [sys.executable, "-m", "streamer", "topics", "create"]
    env = environment(servers, topics__partitions=partitions)
    subprocess.run(command, env=env, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def prepare(servers: str, world: World, *, rows: bool = True) -> float:
    """Topics, item vectors, users' rows, the manifest and, last, the control record; returns the seconds it took."""
    started = time.perf_counter()
    create_topics(servers, world.partitions)
    publish(servers, "item-factors", _item_factors(world))
    if rows:
        publish(servers, "user-state", world.rows())
    publish(servers, "models", [(0, (MODEL.encode(), msgspec.json.encode(world.manifest)))])
    control = Control("activate", MODEL, world.now, f"{PREFIX}item-factors")
    publish(servers, "control", [(0, (b"active", msgspec.json.encode(control)))])
    return time.perf_counter() - started


def create_other_topics(servers: str, topics: Mapping[str, str], partitions: int) -> None:
    """Topics of the other lines: full name -> cleanup policy."""
    wanted = {
        name: {"num_partitions": partitions, "replication_factor": 1, "configs": {"cleanup.policy": cleanup}}
        for name, cleanup in topics.items()
    }
    admin = KafkaAdminClient(bootstrap_servers=servers)
    admin.create_topics(wanted, wait_for_metadata=True)
    admin.close()


def _item_factors(world: World) -> Iterable[Placed]:
    for item in range(world.items):
        name = item_id(item)
        vector = orjson.dumps(np.ascontiguousarray(world.vectors[item]), option=orjson.OPT_SERIALIZE_NUMPY)
        value = (
            b'{"id":"%b","kind":"item","vector":%b,"dimension":%d,"model_version":"%b","version":1,"events":0,'
            b'"event_time":0,"items_epoch":[]}' % (name.encode(), vector, world.dimension, MODEL.encode())
        )
        yield partition(name.encode(), world.partitions), (name.encode(), value)


def publish(servers: str, topic: str, records: Iterable[Placed]) -> int:
    """Write records in the order given to each partition, in large batches; returns how many."""
    return asyncio.run(_publish(servers, PREFIX + topic, records))


async def _publish(servers: str, topic: str, records: Iterable[Placed]) -> int:
    producer = AIOKafkaProducer(
        bootstrap_servers=servers, max_batch_size=_BATCH_BYTES, max_request_size=4 * _BATCH_BYTES, acks="all"
    )
    await producer.start()
    count = 0
    open_batches: dict[int, Any] = defaultdict(producer.create_batch)
    sent: list[asyncio.Future[Any]] = []

    async def send(where: int) -> None:
        sent.append(await producer.send_batch(open_batches.pop(where), topic, partition=where))
        if len(sent) >= _IN_FLIGHT:
            await sent.pop(0)

    try:
        for where, (key, value) in records:
            count += 1
            if open_batches[where].append(key=key, value=value, timestamp=None) is None:
                await send(where)
                open_batches[where].append(key=key, value=value, timestamp=None)
        for where in list(open_batches):
            await send(where)
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
    return count


class Offsets:
    """Committed offsets of groups and ends of topics, asked without joining any group."""

    def __init__(self, servers: str, topic: str, partitions: int) -> None:
        self._servers, self._topic, self._partitions = servers, PREFIX + topic, partitions
        self._clients: dict[str, Consumer] = {}

    def _client(self, group: str) -> Consumer:
        if group not in self._clients:
            # Uncommitted: with a transaction pending the broker would refuse to answer, and the client would wait.
            options = {
                "bootstrap.servers": self._servers,
                "group.id": group,
                "isolation.level": "read_uncommitted",
            }
            self._clients[group] = Consumer(options)
        return self._clients[group]

    def committed(self, group: str) -> int:
        """Sum of the group's committed offsets over the partitions."""
        wanted = [TopicPartition(self._topic, number) for number in range(self._partitions)]
        answer = self._client(group).committed(wanted, timeout=10)
        return sum(max(entry.offset, 0) for entry in answer)

    def end(self) -> int:
        """Sum of the partitions' ends."""
        return sum(self._end(number) for number in range(self._partitions))

    def _end(self, number: int) -> int:
        place = TopicPartition(self._topic, number)
        for _ in range(_TRIES):
            try:
                high: int = self._client("bench-ends").get_watermark_offsets(place, timeout=10)[1]
            except KafkaException:  # a new topic has no leader for a moment
                time.sleep(0.1)
            else:
                return high
        raise TimeoutError(f"{self._topic}-{number} has no leader")

    def close(self) -> None:
        """Close the clients."""
        for client in self._clients.values():
            client.close()


def wait_for(what: str, done: Callable[[], bool], seconds: float) -> None:
    """Wait until ``done()`` is true, or fail saying what was waited for."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.02)


def log_bytes(data: Path | None, topic: str) -> int:
    """What a topic's records take on the broker's disk, as the batches came; 0 where the data can't be seen."""
    folders = [] if data is None else list(data.glob(f"{PREFIX}{topic}-[0-9]*"))
    return sum(segment.stat().st_size for folder in folders for segment in folder.glob("*.log"))
