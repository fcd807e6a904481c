"""Read a running system into `Logs`, with a Kafka client and a RocksDB of the oracle's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from rocksdict import AccessType, Options, Rdict

from tests.oracle.logs import Log, LogRecord, Logs, StoreRows

_SECONDS = 30.0


def read_logs(
    bootstrap_servers: str,
    prefix: str,
    group: str,
    *,
    items_group: str | None = None,
    model_version: str | None = None,
    stores: Sequence[Path] = (),
) -> Logs:
    """Everything committed, of every topic that a comparison looks at.

    Args:
        bootstrap_servers: where the broker is.
        prefix: the topic prefix.
        group: the user worker's consumer group.
        items_group: the item worker's consumer group, where one ran.
        model_version: the generation; None takes the last manifest.
        stores: folders that hold one store a partition, one a worker; none are compared if empty.
    """
    consumer = _consumer(bootstrap_servers, group)
    try:
        topics = (
            "interactions",
            "user-state",
            "user-factors",
            "dead-letters",
            "item-factors",
            "item-signals",
            "item-state",
            "items",
            "models",
        )
        logs = {name: _read(consumer, f"{prefix}{name}") for name in topics}
        committed = _committed(consumer, f"{prefix}interactions", list(logs["interactions"]))
        ends = {"interactions": _ends(consumer, f"{prefix}interactions", list(logs["interactions"]))}
    finally:
        consumer.close()
    items_committed = None
    if items_group is not None:
        consumer = _consumer(bootstrap_servers, items_group)
        try:
            items_committed = _committed(consumer, f"{prefix}item-signals", list(logs["item-signals"]))
        finally:
            consumer.close()
    return Logs(
        manifest=_manifest(logs["models"], model_version),
        interactions=logs["interactions"],
        committed=committed,
        user_state=logs["user-state"],
        user_factors=logs["user-factors"],
        dead_letters=logs["dead-letters"],
        items=logs["item-factors"],
        signals=logs["item-signals"],
        item_state=logs["item-state"],
        items_committed=items_committed,
        catalogue=logs["items"],
        ends=ends,
        stores=None if not stores else _stores(stores, f"{prefix}interactions", list(logs["interactions"])),
    )


def _consumer(bootstrap_servers: str, group: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": group,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
        }
    )


def _manifest(models: Log, model_version: str | None) -> bytes:
    found = b""
    for records in models.values():
        for record in records:
            key = (record.key or b"").decode()
            if record.value is not None and model_version in (None, key):
                found = record.value
    if not found:
        raise LookupError(f"no manifest of {model_version or 'any generation'} is in the models topic")
    return found


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    known = consumer.list_topics(topic, timeout=_SECONDS).topics[topic]
    if known.error is not None:
        if known.error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            return []
        raise KafkaException(known.error)
    return sorted(known.partitions)


def _read(consumer: Consumer, topic: str) -> Log:
    """Every committed record up to the end of each partition; empty partitions are listed too."""
    numbers = _partitions(consumer, topic)
    log: Log = {number: [] for number in numbers}
    if not numbers:
        return log
    consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
    left = set(numbers)
    while left:
        message: Any = consumer.poll(_SECONDS)
        if message is None:
            raise TimeoutError(f"partitions {sorted(left)} of {topic} did not reach their end in {_SECONDS} s")
        error = message.error()
        if error is None:
            log[message.partition()].append(_record(message))
        elif error.code() == KafkaError._PARTITION_EOF:
            left.discard(message.partition())
        else:
            raise KafkaException(error)
    consumer.unassign()
    return log


def _record(message: Any) -> LogRecord:  # its accessors are typed as if each could be None
    return LogRecord(
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        message.timestamp()[1],
        tuple(message.headers() or ()),
    )


def _committed(consumer: Consumer, topic: str, numbers: list[int]) -> dict[int, int]:
    asked = [TopicPartition(topic, number) for number in numbers]
    return {tp.partition: tp.offset for tp in consumer.committed(asked, timeout=_SECONDS) if tp.offset >= 0}


def _ends(consumer: Consumer, topic: str, numbers: list[int]) -> dict[int, int]:
    return {
        number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_SECONDS)[1] for number in numbers
    }


def _stores(roots: Sequence[Path], topic: str, numbers: list[int]) -> dict[int, list[StoreRows | str]]:
    paths = {number: [root / f"{topic}-{number}" for root in roots] for number in numbers}
    return {number: [read_store(path) for path in many if path.exists()] for number, many in paths.items()}


def read_store(path: Path) -> StoreRows | str:
    """All rows of a store at rest, or what is wrong with it.

    A plain scan of the library ends silently at a damaged block; the iterator's status says so.
    """
    families = {"meta": Options(raw_mode=True)}
    try:
        rows = Rdict(str(path), Options(raw_mode=True), families, access_type=AccessType.read_only())
    except Exception as problem:  # noqa: BLE001  # the library raises bare exceptions
        return f"{path} can't be opened: {problem}"
    found: dict[bytes, bytes] = {}
    try:
        offset = rows.get_column_family("meta").get(b"changelog_offset")
        scan = rows.iter()
        scan.seek_to_first()
        while scan.valid():
            found[scan.key()] = scan.value()
            scan.next()
        scan.status()
    except Exception as problem:  # noqa: BLE001  # the library raises bare exceptions
        return f"{path} can't be read to its end: {problem}"
    finally:
        rows.close()
    return StoreRows(str(path), found, int.from_bytes(offset or b"", "little"))
