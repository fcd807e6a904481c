"""Records of a few kilobytes on the wire that are large once they are read, and stores and batches that go wrong.

The partition goes on after each of them.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cramjam
import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.structs import TopicPartition
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from crc32c import crc32c
from kafka import KafkaProducer

from bootstrap.broker import read_to_end
from ops.broker import FoundBroker
from streamer.engine.store import Store, StoreDamaged, StoreMemory
from streamer.engine.transaction import PartitionProducer, TransactionFailed
from streamer.settings import Settings
from streamer.steps.effects import Encoded, Outgoing
from streamer.steps.wire import HEADER, encode_record
from tests.chaos.world import World
from tests.oracle.hashes import partition_of
from tests.streamer.commands.calls import process
from tests.streamer.engine.test_bad_input import letters

LARGE = 9_000_000
PLACE = partition_of(b"u1", 3)


@pytest.fixture(scope="module")
def world(broker: FoundBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    prefix = f"hostile-{time.time_ns()}."
    with World(broker.bootstrap_servers, prefix, tmp_path_factory.mktemp("hostile"), solver="cg") as made:
        yield made


def body(request: str) -> bytes:
    event = {"request_id": request, "user_id": "u1", "item_id": "item-1", "event_type": "click"}
    return json.dumps(event | {"timestamp": time.time_ns() // 1_000_000}).encode()


@pytest.mark.integration
def test_large_values_and_headers_do_not_stop_the_worker(world: World) -> None:
    """The letter of a value of 9 MB is cut, and says how long it was; a traceparent of 9 MB is not passed on."""
    worker = world.start("a")
    producer = Producer(
        {
            "bootstrap.servers": world.servers,
            "compression.type": "gzip",
            "message.max.bytes": 20_000_000,
            "partitioner": "murmur2_random",
        }
    )
    topic = f"{world.prefix}interactions"
    producer.produce(topic, b" " * LARGE, b"u1")
    producer.produce(topic, body("traced"), b"u1", headers=[("traceparent", b"0" * LARGE)])
    producer.produce(topic, b"{half", b"u1", headers=[("long", b"1" * LARGE), ("short", b"2")])
    producer.produce(topic, body("after"), b"u1")
    assert producer.flush(30) == 0
    world.wait_caught_up()
    assert worker.running
    counted = {ending: count for ending, count in worker.counters().items() if count}
    assert counted == {("applied", ""): 2, ("dead_letter", "too_large"): 1, ("dead_letter", "not_json"): 1}
    worker.stop()
    found = {headers["factors.reason"]: (value, headers) for _, value, headers in letters(world)}
    value, headers = found[b"too_large"]
    assert value is not None
    assert headers["factors.bytes"] == str(LARGE).encode()
    assert set(value) == {0x20}
    assert len(value) == 800_000
    value, headers = found[b"not_json"]
    assert value == b"{half"
    assert "long" not in headers
    assert headers["short"] == b"2"


class Odd(str):
    """A header's name that is not UTF-8 once it is written."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return b"odd-\xff\xfe"


@pytest.mark.integration
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_header_name_that_is_not_utf8_stops_nobody(world: World, compression: str | None) -> None:
    """Its record is one like any other in the middle of its batch; the letter and the other reader spell the name."""
    topic, name = f"{world.prefix}interactions", compression or "plain"
    settings = Settings.model_validate({"kafka": {"bootstrap_servers": world.servers, "prefix": world.prefix}})
    values = [body(f"{name}-{number}") for number in range(5)]
    values[3] = b"{half"
    last = len(read_to_end(settings, topic)[0])
    with closing(
        KafkaProducer(bootstrap_servers=world.servers, compression_type=compression, linger_ms=2_000, acks="all")
    ) as producer:
        for number, value in enumerate(values):
            headers = [("fine", b"1"), (Odd("odd"), b"2")] if number in {1, 3} else []
            producer.send(topic, value, b"u1", headers)
        producer.flush()
    worker = world.start(name)
    world.wait_caught_up()
    assert worker.running
    counted = {ending: count for ending, count in worker.counters().items() if count}
    assert counted == {("applied", ""): 4, ("dead_letter", "not_json"): 1}
    worker.stop()
    records, _ = read_to_end(settings, topic)
    assert [(record.value, record.headers) for record in records[last:]] == [
        (value, [("fine", b"1"), (r"odd-\xff\xfe", b"2")] if number in {1, 3} else [])
        for number, value in enumerate(values)
    ]
    environment = {"FACTORS_KAFKA__BOOTSTRAP_SERVERS": world.servers, "FACTORS_KAFKA__PREFIX": world.prefix}
    looked = process("doctor", "--json", environment=environment)
    (clock,) = [check for check in looked.json()["checks"] if check["check"] == "clock"]
    assert clock["status"] == "ok", clock
    _, buried, said = letters(world)[-1]
    assert buried == b"{half"
    assert said[r"odd-\xff\xfe"] == b"2"


# --- batches that no client makes, and every broker takes ---------------------------------------------------------


def _varint(number: int) -> bytes:
    rest, out = (number << 1) ^ (number >> 63), bytearray()
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def _record(place: int, value: bytes) -> bytes:
    body = b"\0" + _varint(0) + _varint(place) + _varint(2) + b"u1" + _varint(len(value)) + value + _varint(0)
    return _varint(len(body)) + body


def _batch(records: bytes, count: int, codec: int = 0) -> bytes:
    now = int(time.time() * 1000)
    rest = struct.pack(">hiqqqhii", codec, count - 1, now, now, -1, -1, -1, count) + records
    return struct.pack(">qiibI", 0, len(rest) + 9, -1, 2, crc32c(rest)) + rest


async def _send_raw(servers: str, topic: str, batch: bytes) -> None:
    client = AIOKafkaClient(bootstrap_servers=servers)
    await client.bootstrap()
    try:
        asked = ProduceRequest(
            required_acks=-1, timeout=30_000, topics=[(topic, [(PLACE, batch)])], transactional_id=None
        )
        node = client.cluster.brokers().pop().nodeId
        answer = await client.send(node, asked)
        assert answer.topics[0][1][0][1] == 0, f"the broker refused the batch: {answer}"
    finally:
        await client.close()


def _places(*places: int) -> Any:
    def made() -> tuple[bytes, int]:
        records = [_record(at, body(f"{places[:2]}-{number}")) for number, at in enumerate(places)]
        return _batch(b"".join(records), len(places)), len(places)

    return made


def _damaged(codec: int, compress: Any, behind: bytes) -> Any:
    def made() -> tuple[bytes, int]:
        return _batch(bytes(compress(_record(0, body("unread")))) + behind, 1, codec), 1

    return made


def _lz4_without_its_sum(data: bytes) -> bytes:
    frame = cramjam.lz4.Compressor(level=1, block_linked=False, content_checksum=True)
    frame.compress(data)
    return bytes(frame.finish())[:-4]


ODD_BATCHES: dict[str, tuple[Any, str]] = {
    "offsets that repeat": (_places(0, 0, 0), "applied"),
    "offsets that fall": (_places(2, 1, 0), "applied"),
    "an offset before the batch": (_places(-5, 0), "applied"),
    "offsets far beyond the batch": (_places(*range(100_000, 100_090)), "applied"),
    "something behind the gzip member": (_damaged(1, gzip.compress, b"\x1f\x00more"), "dead_letter"),
    "a wrong checksum of lz4": (_damaged(3, _lz4_without_its_sum, b"\1\2\3\4"), "dead_letter"),
}


@pytest.mark.integration
@pytest.mark.parametrize("name", ODD_BATCHES)
async def test_a_batch_that_no_client_makes_stops_nobody(world: World, name: str) -> None:
    """Its records are counted each once where they can be read, else it is one dead letter; what follows is applied."""
    make, outcome = ODD_BATCHES[name]
    batch, count = make()
    topic = f"{world.prefix}interactions"
    await _send_raw(world.servers, topic, batch)
    producer = Producer({"bootstrap.servers": world.servers})
    producer.produce(topic, body(f"after {name}"), b"u1", partition=PLACE)
    assert producer.flush(30) == 0
    worker = world.start(name.replace(" ", "-"))
    expected = Counter({"applied": 1})
    expected[outcome] += count

    def counted() -> Counter[str]:
        found: Counter[str] = Counter()
        for (ending, _), number in worker.counters().items():
            found[ending] += number
        return found

    world.wait_for(lambda: reachable(counted).total() >= expected.total(), 30, lambda: f"{reachable(counted)}")
    world.wait_caught_up()
    assert counted() == expected
    assert worker.running
    assert worker.stop() == 0


def reachable(counted: Any) -> Counter[str]:
    """The counts, none while the worker's port is not open yet."""
    try:
        found: Counter[str] = counted()
    except OSError:
        return Counter()
    return found


@pytest.mark.integration
def test_many_headers_cost_no_session(world: World) -> None:
    """Three million headers and an odd name, a kilobyte on the wire: read past in less than the session time-out."""
    names = b"".join([b"\x02h\x00"] * 3_000_000) + _varint(2) + b"\xff\xfe" + _varint(0)
    value = body("many headers")
    head = b"\0" + _varint(0) + _varint(0) + _varint(2) + b"u1" + _varint(len(value)) + value
    record = head + _varint(3_000_001) + names
    batch = _batch(bytes(cramjam.zstd.compress(_varint(len(record)) + record)), 1, 4)
    asyncio.run(_send_raw(world.servers, f"{world.prefix}interactions", batch))
    worker = world.start("many-headers")
    world.wait_for(lambda: reachable(worker_counts(worker)).total() >= 1, 30, lambda: "not counted")
    assert "Heartbeat session expired" not in worker.log.read_text()
    assert worker.stop() == 0


def worker_counts(worker: Any) -> Any:
    return lambda: Counter({ending: count for (ending, _), count in worker.counters().items()})


@pytest.mark.integration
def test_a_topic_made_anew_is_told(world: World) -> None:
    """What is accounted for is not there any more: one sentence and exit code 4, and no silent wait."""
    worker = world.start("before")
    world.send(20)
    world.wait_caught_up()
    assert worker.stop() == 0
    admin, topic = AdminClient({"bootstrap.servers": world.servers}), f"{world.prefix}interactions"
    admin.delete_topics([topic])[topic].result()
    time.sleep(2.0)
    config = {"message.timestamp.type": "LogAppendTime"}
    for future in admin.create_topics([NewTopic(topic, world.partitions, 1, config=config)]).values():
        future.result()
    again = world.start("again")
    assert again.wait(30) == 4, world.last_words()
    assert "but the log ends at" in again.log.read_text()


def partition_producer(servers: str, name: str) -> PartitionProducer:
    place = TopicPartition(name, 0)
    return PartitionProducer(f"{name}-writer", f"{name}-group", place, 15_000, {"bootstrap_servers": servers})


def make_topic(servers: str, name: str, **configs: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    for future in admin.create_topics([NewTopic(name, 1, 1, config=configs)]).values():
        future.result()


def committed(servers: str, name: str) -> list[tuple[bytes | None, bytes | None]]:
    reader = Consumer({"bootstrap.servers": servers, "group.id": "unused", "enable.partition.eof": True})
    reader.assign([Place(name, 0, 0)])
    found = []
    while (message := reader.poll(10)) is not None and not message.error():
        found.append((message.key(), message.value()))
    reader.close()
    return found


@pytest.mark.integration
async def test_every_record_of_many_batches_is_sent(broker: FoundBroker) -> None:
    """Several written by the kernel, then more than are joined one by one: all, in order, and the offset after them."""
    servers, name = broker.bootstrap_servers, f"many-{time.time_ns()}"
    make_topic(servers, name)
    records: list[Outgoing] = [(b"k%d" % number, b"v%d" % number, None, []) for number in range(300)]
    encoded = []
    for start in range(0, 150, 50):
        part = records[start : start + 50]
        data = bytes(HEADER) + b"".join(encode_record(number, record) for number, record in enumerate(part))
        encoded.append(Encoded(memoryview(data), len(part)))
    producer = partition_producer(servers, name)
    await producer.fence()
    try:
        assert await producer.commit({(name, 0): records[150:]}, {(name, 0): encoded}, 7, (name, 0)) == 300
        few: list[Outgoing] = [(b"few", b"1", None, [])]
        # The first transaction's marker takes an offset, too.
        assert await producer.commit({(name, 0): few}, {(name, 0): encoded[:1]}, 8, (name, 0)) == 352
    finally:
        await producer.close()
    assert committed(servers, name) == [(key, value) for key, value, *_ in [*records, *records[:50], *few]]


@pytest.mark.integration
async def test_a_refused_batch_needs_a_new_producer(broker: FoundBroker) -> None:
    """Aiokafka's sequence numbers run ahead of the broker's: what the worker does, and why."""
    servers, name = broker.bootstrap_servers, f"refused-{time.time_ns()}"
    make_topic(servers, name, **{"max.message.bytes": "20000"})
    small: list[Outgoing] = [(b"k", b"v", None, [])]
    producer = partition_producer(servers, name)
    await producer.fence()
    assert await producer.commit({(name, 0): small}, {}, 1, (name, 0)) == 1
    with pytest.raises(TransactionFailed):
        await producer.commit({(name, 0): [(b"k", bytes(50_000), None, [])]}, {}, 2, (name, 0))
    with pytest.raises(TransactionFailed):
        await producer.commit({(name, 0): small}, {}, 2, (name, 0))
    await producer.close()
    again = partition_producer(servers, name)
    await again.fence()
    await again.commit({(name, 0): small}, {}, 2, (name, 0))
    await again.close()
    assert committed(servers, name) == [(b"k", b"v")] * 2
    assert isinstance(again._producer, AIOKafkaProducer)


def test_a_damaged_block_is_damage_and_not_a_full_disk(tmp_path: Path) -> None:
    """Opening does not read data blocks: reading one later, or compacting it, does."""
    memory = StoreMemory.of(8)
    memory.rows.limit = 0
    store = Store(tmp_path / "s", memory)
    noise = np.random.default_rng(0)
    keys = [b"%06d" % number for number in range(4_000)]
    store.write([(key, noise.bytes(500)) for key in keys], 1, 1)
    store.close()
    file = max((tmp_path / "s").glob("*.sst"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    for at in range(1_000, len(data) - 100_000, 3_000):
        data[at] ^= 0xFF
    file.write_bytes(data)
    store = Store(tmp_path / "s", memory)
    with pytest.raises(StoreDamaged):
        store.get_many(keys)
    store.close()
