"""Publish a generation: all of it in one transaction, so that a reader of committed records sees all or nothing.

    item factors as trained, in a topic of their own -> manifest -> control record "active"

That topic stays as it is: whoever serves the generation, now or after a rollback, begins with it. The first generation
goes straight into the topics that are served, too, users and all, since nobody serves another::

    item factors -> user rows and user factors

A later one never touches them: running workers load it and cut over, and solve each user anew from the kept history.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from bootstrap.broker import administration, client_options, committed_reader, speaking
from bootstrap.matrix import counted
from bootstrap.records import VERSION, Writer
from bootstrap.serve import server_of
from bootstrap.served import check, served
from schemas.layouts import RowShape, encode_user_rows
from schemas.records import Manifest
from streamer.events.activation import activation
from streamer.events.hashes import generation_id, partition
from streamer.factors.checksum import items_sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kafka import KafkaAdminClient

    from bootstrap.model import Model
    from streamer.factors.serving import Served
    from streamer.settings import Settings

_TRANSACTION_MS = 900_000  # Kafka's default bound: a large generation takes minutes
_USERS = 4096


@dataclass(frozen=True, slots=True)
class Published:
    """What was written: records by topic, and where a worker finds the item vectors."""

    model_version: str
    item_topic: str
    activated: bool
    records: dict[str, int]


def publish(
    settings: Settings,
    manifest: Manifest,
    model: Model,
    *,
    activate: bool,
    now_ms: int,
    on_records: Callable[[int], None] = lambda done: None,
) -> Published:
    """Publish a model under its manifest; with ``activate`` the workers start serving it.

    Raises:
        CheckFailed, BrokerError: as `check`; nothing is published then.
    """
    counts = check(settings, manifest)
    common = settings.topic("item-factors")
    partitions = counts[common]
    own = f"{common}.{manifest.model_version}"
    manifest = msgspec.structs.replace(
        manifest, item_partitions=partitions, items_sha256=items_sha256(model.item_ids, model.items)
    )
    with speaking(settings, "publishing"):
        with administration(settings) as admin:
            _create_like(admin, own, partitions, settings)
        with _transaction(settings, on_records) as sender:
            # Another publisher's open transaction has ended by now, and this one would end the next: ask once more.
            check(settings, manifest)
            founding = activate and served(settings).active is None
            _send_items(sender, settings, manifest, model, own, partitions)
            if founding:
                epochs = _send_items(sender, settings, manifest, model, common, partitions)
                _send_users(sender, settings, manifest, model, epochs, counts)
            sender.send(settings.topic("models"), manifest.model_version.encode(), msgspec.json.encode(manifest))
            item_topic = common if founding else own
            if activate:
                for key, command in activation(manifest.model_version, now_ms, item_topic, common):
                    sender.send(settings.topic("control"), key, command)
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
        value: bytes | None,
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
    mean = float(model.popularity.mean()) if manifest.policy.sgd_balance > 0 else 0.0
    for row, item_id in enumerate(model.item_ids):
        popularity = float(model.popularity[row]) / mean if mean > 0 else None
        weight = 1.0 if model.weights is None else float(model.weights[row])
        record = writer.item(item_id, model.items[row], int(model.item_event_time[row]), popularity, weight)
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
    shape = RowShape(manifest.width, policy.history_capacity, policy.keys_capacity, len(epochs))
    lengths, server = (
        np.diff(counted(users, policy).history_start),
        server_of(manifest, model, settings.engine.tolerance),
    )
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
        served = None if server is None else server.serve(rows)
        for user, row in enumerate(encode_user_rows(rows), first):
            record = writer.user(
                users.ids[user],
                model.user_vectors[user] if served is None else served.vectors[user - first],
                events=int(users.events[user]),
                event_time=int(users.event_time[user]),
                epochs=epochs,
                suppressed=users.suppressed.get(user, ()),
                **_made_of(served, user - first, bool(lengths[user])),
            )
            number = partition(record.key, counts[state])
            sender.send(state, record.key, row, None, number)
            sender.send(factors, record.key, record.value, record.headers, number)


def _made_of(served: Served | None, at: int, has_history: bool) -> dict[str, Any]:
    """What the record of one user of a pass says of what its vector rests on."""
    if served is None:
        return {"made_of": {"basis": "history" if has_history else "average"}}
    return {"session": served.session[at] if served.has_session[at] else None, "made_of": served.made_of(at)}


def _writer(settings: Settings, manifest: Manifest) -> Writer:
    source = f"{settings.engine.app_id}-bootstrap"
    biased = manifest.width > manifest.dimension
    return Writer(source, manifest.model_version, manifest.training_data_end, settings.factors.encoding, biased)
