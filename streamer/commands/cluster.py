"""The commands' own way to Kafka: clients that give up soon, and errors as one sentence for an operator."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import (
    AuthorizationError,
    KafkaError,
    SaslAuthenticationFailedError,
    UnknownTopicOrPartitionError,
)

from streamer import header_names, kafka_sockets
from streamer.errors import BrokerError
from streamer.events.hashes import partition
from streamer.knock import knock
from streamer.settings import Settings, kafka_python_options

_ANSWER_MS = 8_000
_STALL_SECONDS = 30.0
_POLL_MS = 200

header_names.install()
kafka_sockets.install()


def _options(settings: Settings) -> dict[str, Any]:
    return {**kafka_python_options(settings), "bootstrap_timeout_ms": _ANSWER_MS, "client_id": "factors-command"}


@contextmanager
def speaking(settings: Settings) -> Iterator[None]:
    """Check that something listens at the broker's address, then turn the client's errors into sentences.

    Raises:
        BrokerError: the broker is not there, or refuses.
    """
    servers = settings.kafka.bootstrap_servers
    knock(servers)
    try:
        yield
    except SaslAuthenticationFailedError:
        raise BrokerError(
            f"the broker at {servers} refuses the credentials: check kafka.username, kafka.password "
            "(FACTORS_KAFKA__PASSWORD) and kafka.sasl_mechanism."
        ) from None
    except AuthorizationError as problem:
        raise BrokerError(f"the broker at {servers} does not allow this: {_words(problem)}.") from None
    except UnknownTopicOrPartitionError as problem:
        raise BrokerError(
            f"a topic is missing at {servers} ({_words(problem)}): run `streamer topics create`."
        ) from None
    except (KafkaError, OSError) as problem:
        raise BrokerError(
            f"what listens at {servers} does not answer as a Kafka broker should ({_words(problem)}): "
            "check kafka.bootstrap_servers and kafka.security_protocol."
        ) from None


def _words(problem: Exception) -> str:
    name = type(problem).__name__
    text = str(problem).removeprefix(name).strip(": ")
    return f"{name}: {text}" if text else name


@contextmanager
def administration(settings: Settings) -> Iterator[KafkaAdminClient]:
    """An admin client, inside of `speaking`."""
    with speaking(settings), closing(KafkaAdminClient(**_options(settings), request_timeout_ms=15_000)) as admin:
        yield admin


@contextmanager
def producing(settings: Settings, **options: Any) -> Iterator["Producer"]:
    """A producer, inside of `speaking`; at the end everything is sent, or the first failure is raised."""
    with speaking(settings):
        client = KafkaProducer(
            **_options(settings),
            linger_ms=5,
            batch_size=1 << 17,
            delivery_timeout_ms=30_000,
            request_timeout_ms=15_000,
            max_block_ms=10_000,
            max_request_size=1_500_000,
            allow_auto_create_topics=False,
            **options,
        )
        with closing(client):
            producer = Producer(client)
            yield producer
            producer.flush()


class Producer:
    """Sends, and stops at the first record that failed; keys are partitioned by murmur2, as Kafka's own clients do."""

    def __init__(self, client: KafkaProducer) -> None:
        self._client = client
        self._failed: list[Exception] = []

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes]] | None = None,
        number: int | None = None,
    ) -> None:
        """Send one record; ``number`` is the partition where the key does not say it.

        Raises:
            KafkaError: this record or an earlier one failed.
        """
        if self._failed:
            raise self._failed[0]
        future = self._client.send(topic, value=value, key=key, headers=headers or [], partition=number)
        future.add_errback(self._failed.append)

    def flush(self) -> None:
        """Wait for every record.

        Raises:
            KafkaError: the first that failed.
        """
        self._client.flush(timeout=60)
        if self._failed:
            raise self._failed[0]


@contextmanager
def consuming(settings: Settings, **options: Any) -> Iterator[KafkaConsumer]:
    """A consumer of committed records outside of any group, inside of `speaking`."""
    with speaking(settings):
        consumer = KafkaConsumer(
            **_options(settings),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            max_poll_records=5_000,
            max_partition_fetch_bytes=4 << 20,
            **options,
        )
        with closing(consumer):
            yield consumer


def places_of(consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    """The partitions of a topic.

    Raises:
        BrokerError: there is no such topic.
    """
    numbers = consumer.partitions_for_topic(topic) if topic in consumer.topics() else None
    if not numbers:
        raise BrokerError(f"the topic {topic} is missing: run `streamer topics create`.")
    return [TopicPartition(topic, number) for number in sorted(numbers)]


def place_of(consumer: KafkaConsumer, topic: str, key: str) -> TopicPartition:
    """The partition that holds a key.

    Raises:
        BrokerError: there is no such topic.
    """
    places = places_of(consumer, topic)
    return places[partition(key.encode(), len(places))]


def read_to_end(
    consumer: KafkaConsumer, places: list[TopicPartition], advance: Callable[[int], None] = lambda _: None
) -> Iterator[Any]:
    """Every record from the start to the present end, in log order within each partition.

    Raises:
        BrokerError: the end is not reached though nothing comes any more.
    """
    consumer.assign(places)
    consumer.seek_to_beginning(*places)
    yield from read_from_here(consumer, places, advance)


def read_from_here(
    consumer: KafkaConsumer, places: list[TopicPartition], advance: Callable[[int], None] = lambda _: None
) -> Iterator[Any]:
    """As `read_to_end`, from the consumer's present positions."""
    ends = consumer.end_offsets(places)
    moved, before = time.monotonic(), -1
    while behind := [place for place in places if consumer.position(place) < ends[place]]:
        for place, records in consumer.poll(timeout_ms=_POLL_MS).items():
            advance(len(records))
            yield from (record for record in records if record.offset < ends[place])
        total = sum(consumer.position(place) for place in places)
        if total != before:
            moved, before = time.monotonic(), total
        elif time.monotonic() - moved > _STALL_SECONDS:
            where = ", ".join(f"{place.topic}-{place.partition}" for place in behind)
            raise BrokerError(
                f"nothing comes from {where} any more though the end is not reached: "
                "is a broker down, or a producer's transaction open?"
            )


def newest_of(consumer: KafkaConsumer, topic: str, key: str) -> Any | None:
    """The newest record of a key in a compacted topic, None where there is none or it is a tombstone."""
    found = None
    for record in read_to_end(consumer, [place_of(consumer, topic, key)]):
        if record.key == key.encode():
            found = record
    return None if found is None or found.value is None else found
