"""Publish a generation: all of it in one transaction, so that a reader of committed records sees all or nothing.

The first generation goes straight to the topics that workers serve from, and is made active::

    item factors -> user rows and user factors -> manifest -> control record "active"

A later one must not touch them while a worker serves another: its item vectors go to a topic of their own, its manifest
is announced, and the live change is `streamer models activate`, which re-solves the users from their kept history.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from bootstrap.broker import administration, client_options, committed_reader, read_to_end, require_topics, speaking
from bootstrap.records import VERSION, Writer
from schemas.layouts import RowShape, encode_user_rows
from schemas.records import Control, Manifest
from streamer.errors import BrokerError, CheckFailed
from streamer.events.hashes import generation_id, partition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kafka import KafkaAdminClient

    from bootstrap.model import Model
    from streamer.settings import Settings

ACTIVE = b"active"
_TRANSACTION_MS = 900_000  # Kafka's default bound: a large generation takes minutes
_USERS = 4096
_GROUPS = (
    ("interactions", "user-factors", "user-state"),
    ("item-signals", "item-factors", "item-state"),
    ("models",),
    ("control",),
)


@dataclass(frozen=True, slots=True)
class Served:
    """What the topics say: the announced versions, and the one that is active (None: none is)."""

    manifests: dict[str, Manifest]
    active: Control | None

    @property
    def manifest(self) -> Manifest | None:
        """The active generation's manifest."""
        return self.manifests.get(self.active.model_version) if self.active else None


@dataclass(frozen=True, slots=True)
class Published:
    """What was written: records by topic, and where a worker finds the item vectors."""

    model_version: str
    item_topic: str
    activated: bool
    records: dict[str, int]


def served(settings: Settings) -> Served:
    """The announced generations.

    Raises:
        BrokerError: Kafka is not there, or a topic is missing.
    """
    manifests: dict[str, Manifest] = {}
    for record in read_to_end(settings, settings.topic("models"))[0]:
        name = (record.key or b"").decode("utf-8", "replace")
        manifests.pop(name, None)
        if record.value is not None:
            manifests[name] = _decode(record.value, Manifest, settings.topic("models"))
    active = None
    for record in read_to_end(settings, settings.topic("control"))[0]:
        if record.key == ACTIVE:
            active = None if record.value is None else _decode(record.value, Control, settings.topic("control"))
    return Served(manifests, active)


def _decode(value: bytes, kind: type[Any], topic: str) -> Any:
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, ValueError) as problem:
        raise BrokerError(f"{topic} holds something other than a {kind.__name__.lower()}: {problem}.") from None


def expect_place(settings: Settings, *, activate: bool) -> tuple[dict[str, int], Served]:
    """Whether the topics have room for one more generation; returns their partition counts and what they serve.

    Raises:
        CheckFailed: another generation is active.
        BrokerError: Kafka is not there, topics are missing, or their partition counts differ.
    """
    with speaking(settings, "looking at the topics"), administration(settings) as admin:
        counts = require_topics(admin, [[settings.topic(name) for name in group] for group in _GROUPS])
    known = served(settings)
    if activate and known.active is not None:
        raise CheckFailed(
            f"{known.active.model_version} is active: publish with --no-activate, then change over live with "
            "`streamer models activate`."
        )
    return counts, known


def check(settings: Settings, manifest: Manifest, *, activate: bool) -> dict[str, int]:
    """Whether this generation may be published; returns the topics' partition counts.

    Raises:
        CheckFailed: a gate failed, the version is taken, or another generation is active.
        BrokerError: Kafka is not there, topics are missing, or their partition counts differ.
    """
    failed = [gate.name for gate in manifest.gates if not gate.passed]
    if failed:
        raise CheckFailed(f"{manifest.model_version} failed its gates ({', '.join(failed)}) and is not published.")
    counts, known = expect_place(settings, activate=activate)
    if manifest.model_version in known.manifests:
        raise CheckFailed(f"{manifest.model_version} is published already: a version is never written twice.")
    parent = known.manifest
    if parent is not None and parent.item_key != manifest.item_key:
        raise CheckFailed(
            f"{manifest.model_version} has another item_key than the active {parent.model_version}, so it could not "
            "read the kept histories: fit again with the topics at hand, or with --parent."
        )
    return counts


def publish(
    settings: Settings,
    manifest: Manifest,
    model: Model,
    *,
    activate: bool,
    now_ms: int,
    on_records: Callable[[int], None] = lambda done: None,
) -> Published:
    """Publish a model under its manifest; with ``activate`` users too, and the workers start serving it.

    Raises:
        CheckFailed, BrokerError: as `check`; nothing is published then.
    """
    counts = check(settings, manifest, activate=activate)
    item_topic = settings.topic("item-factors")
    partitions = counts[item_topic]
    if not activate:
        item_topic = f"{item_topic}.{manifest.model_version}"
    manifest = msgspec.structs.replace(manifest, item_partitions=partitions)
    with speaking(settings, "publishing"):
        if not activate:
            with administration(settings) as admin:
                _create_like(admin, item_topic, partitions, settings)
        with _transaction(settings, on_records) as sender:
            # Another publisher's open transaction has ended by now, and this one would end the next: ask once more.
            check(settings, manifest, activate=activate)
            epochs = _send_items(sender, settings, manifest, model, item_topic, partitions)
            if activate:
                _send_users(sender, settings, manifest, model, epochs, counts)
            sender.send(settings.topic("models"), manifest.model_version.encode(), msgspec.json.encode(manifest))
            if activate:
                command = Control("activate", manifest.model_version, now_ms, item_topic)
                sender.send(settings.topic("control"), ACTIVE, msgspec.json.encode(command))
    return Published(manifest.model_version, item_topic, activate, dict(sender.counts))


def _create_like(admin: KafkaAdminClient, topic: str, partitions: int, settings: Settings) -> None:
    """The topic of one generation's item vectors: its name is new with the generation, so nobody made it before."""
    if topic in set(admin.list_topics()):
        return
    configs = {
        "cleanup.policy": "compact",
        "delete.retention.ms": str(settings.topics.tombstone_retention_ms),
    }
    options = {
        "num_partitions": partitions,
        "replication_factor": settings.topics.replication,
        "configs": configs,
    }
    admin.create_topics({topic: options}, wait_for_metadata=True)


class _Sender:
    """Sends within the transaction, counts by topic, and stops at the first record that failed."""

    def __init__(self, producer: KafkaProducer, on_records: Callable[[int], None]) -> None:
        self._producer, self._on_records = producer, on_records
        self._failed: list[BaseException] = []
        self.counts: dict[str, int] = {}
        self._total = 0

    def send(
        self,
        topic: str,
        key: bytes,
        value: bytes,
        headers: list[tuple[str, bytes]] | None = None,
        number: int | None = None,
    ) -> Any:
        """Send one record, to its partition ``number`` where that is known; returns the client's future."""
        if self._failed:
            raise self._failed[0]
        future = self._producer.send(topic, key=key, value=value, headers=headers or [], partition=number)
        future.add_errback(self._failed.append)
        self.counts[topic] = self.counts.get(topic, 0) + 1
        self._total += 1
        if self._total % 1000 == 0:
            self._on_records(self._total)
        return future

    def flush(self) -> None:
        """Wait for every record.

        Raises:
            KafkaError: of the first that failed.
        """
        self._producer.flush()
        if self._failed:
            raise self._failed[0]
        self._on_records(self._total)


@contextmanager
def _transaction(settings: Settings, on_records: Callable[[int], None]) -> Iterator[_Sender]:
    """One transaction around everything; an error inside leaves nothing behind.

    One id for the whole prefix: whoever publishes next first ends what a dead or a second publisher left open.
    """
    producer = KafkaProducer(
        **client_options(settings),
        transactional_id=f"{settings.topic('bootstrap')}",
        transaction_timeout_ms=_TRANSACTION_MS,
        compression_type="lz4",
        linger_ms=20,
        batch_size=1 << 18,
        max_request_size=8 << 20,
    )
    with closing(producer):
        producer.init_transactions()
        producer.begin_transaction()
        sender = _Sender(producer, on_records)
        try:
            yield sender
            sender.flush()
        except BaseException:
            _abort(producer)
            raise
        producer.commit_transaction()


def _abort(producer: KafkaProducer) -> None:
    """Best effort: the error that led here is the one to tell, and the broker ends the transaction by itself."""
    try:
        producer.abort_transaction()
    except (KafkaError, AssertionError, RuntimeError):
        return


def _send_items(
    sender: _Sender, settings: Settings, manifest: Manifest, model: Model, topic: str, partitions: int
) -> list[int]:
    """Send every item vector; returns, for each partition, the offset that follows the last one."""
    writer = _writer(settings, manifest)
    last: dict[int, Any] = {}
    for row, item_id in enumerate(model.item_ids):
        record = writer.item(item_id, model.items[row], int(model.item_event_time[row]))
        number = partition(record.key, partitions)
        last[number] = sender.send(topic, record.key, record.value, record.headers, number)
    sender.flush()
    with committed_reader(settings) as reader:
        ends = reader.end_offsets([TopicPartition(topic, number) for number in range(partitions)])
    found = {place.partition: end for place, end in ends.items()} | {
        number: future.get().offset + 1 for number, future in last.items()
    }
    return [found[number] for number in range(partitions)]


def _send_users(
    sender: _Sender,
    settings: Settings,
    manifest: Manifest,
    model: Model,
    epochs: list[int],
    counts: dict[str, int],
) -> None:
    """Send every user's row and vector, a few thousand at a time."""
    state, factors = settings.topic("user-state"), settings.topic("user-factors")
    policy, users, writer = manifest.policy, model.users, _writer(settings, manifest)
    shape = RowShape(manifest.dimension, policy.history_capacity, policy.keys_capacity, len(epochs))
    lengths = np.diff(users.history_start)
    for first in range(0, len(users.ids), _USERS):
        part = slice(first, min(first + _USERS, len(users.ids)))
        rows = users.rows(
            part,
            model.user_vectors,
            shape=shape,
            generation=generation_id(manifest.model_version),
            epochs=np.array(epochs, np.int64),
            version=VERSION,
        )
        for user, row in enumerate(encode_user_rows(rows), first):
            record = writer.user(
                users.ids[user],
                model.user_vectors[user],
                events=int(users.events[user]),
                event_time=int(users.event_time[user]),
                epochs=epochs,
                suppressed=users.suppressed.get(user, ()),
                has_history=bool(lengths[user]),
            )
            number = partition(record.key, counts[state])
            sender.send(state, record.key, row, None, number)
            sender.send(factors, record.key, record.value, record.headers, number)


def _writer(settings: Settings, manifest: Manifest) -> Writer:
    source = f"{settings.engine.app_id}-bootstrap"
    return Writer(source, manifest.model_version, manifest.training_data_end, settings.factors.encoding)
