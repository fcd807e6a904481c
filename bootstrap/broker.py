"""The few things this job asks of Kafka beside publishing: are the topics there, and what do they hold."""

from __future__ import annotations

import socket
from contextlib import closing, contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError

from streamer import header_names, kafka_sockets
from streamer.errors import BrokerError
from streamer.settings import Settings, kafka_python_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ANSWER_MS = 10_000
_KNOCK_SECONDS = 2.0
_STALL_SECONDS = 30.0
_POLL_MS = 200

header_names.install()
kafka_sockets.install()


def client_options(settings: Settings) -> dict[str, Any]:
    """What each of this job's clients is made with: it gives up on a broker that is not there after 10 s."""
    return {**kafka_python_options(settings), "bootstrap_timeout_ms": _ANSWER_MS}


@contextmanager
def speaking(settings: Settings, what: str) -> Iterator[None]:
    """Turn the client's errors into the one sentence for an operator.

    Raises:
        BrokerError: the broker is not there, or refused ``what``.
    """
    servers = settings.kafka.bootstrap_servers
    if not any(_listens(server) for server in servers.split(",")):
        raise BrokerError(f"{what} failed: no broker answers at {servers}; start it, or set kafka.bootstrap_servers.")
    try:
        yield
    except KafkaTimeoutError:
        raise BrokerError(
            f"{what} failed: what listens at {servers} does not answer as a Kafka broker should: check "
            "kafka.bootstrap_servers and kafka.security_protocol."
        ) from None
    except KafkaError as problem:
        name = type(problem).__name__
        raise BrokerError(f"{what} failed at {servers}: {name}, {problem}.") from None


def _listens(server: str) -> bool:
    """Whether anything listens there: the client itself would try in silence for long."""
    host, _, port = server.strip().rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
    except OSError:
        return False
    return True


@contextmanager
def administration(settings: Settings) -> Iterator[KafkaAdminClient]:
    """An admin client."""
    with closing(KafkaAdminClient(**client_options(settings))) as admin:
        yield admin


def partition_counts(admin: KafkaAdminClient, names: Iterable[str]) -> dict[str, int]:
    """The partition count of each of these topics that exists."""
    present = set(admin.list_topics())
    asked = [name for name in names if name in present]
    return {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(asked)} if asked else {}


def require_topics(admin: KafkaAdminClient, groups: Iterable[Iterable[str]]) -> dict[str, int]:
    """The partition count of every topic; those of one group must have the same.

    Raises:
        BrokerError: topics are missing, or the counts of one group differ.
    """
    wanted = [list(group) for group in groups]
    counts = partition_counts(admin, [name for group in wanted for name in group])
    missing = [name for group in wanted for name in group if name not in counts]
    if missing:
        raise _missing(missing)
    for group in wanted:
        if len({counts[name] for name in group}) > 1:
            found = ", ".join(f"{name} has {counts[name]}" for name in group)
            raise BrokerError(
                f"topics of one group need the same partition count, but {found}: see `streamer topics check`."
            )
    return counts


def _missing(names: list[str]) -> BrokerError:
    return BrokerError(f"no topic {', '.join(names)}: make what is missing with `streamer topics create`.")


@contextmanager
def committed_reader(settings: Settings) -> Iterator[KafkaConsumer]:
    """A consumer outside of any group that sees committed records only."""
    consumer = KafkaConsumer(
        **client_options(settings),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_poll_records=10_000,
        max_partition_fetch_bytes=8 << 20,
    )
    with closing(consumer):
        yield consumer


def read_to_end(settings: Settings, topic: str) -> tuple[list[Any], dict[int, int]]:
    """Every committed record of a topic, partition by partition in log order, and the end offset of each partition.

    Raises:
        BrokerError: the topic is missing, or its end is not reached.
    """
    with speaking(settings, f"reading {topic}"), committed_reader(settings) as consumer:
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            raise _missing([topic])
        return _read(consumer, [TopicPartition(topic, number) for number in sorted(numbers)])


def _read(consumer: KafkaConsumer, places: list[TopicPartition]) -> tuple[list[Any], dict[int, int]]:
    consumer.assign(places)
    ends = consumer.end_offsets(places)
    consumer.seek_to_beginning(*places)
    records: dict[TopicPartition, list[Any]] = {place: [] for place in places}
    moved, before = monotonic(), -1
    while behind := [place for place in places if consumer.position(place) < ends[place]]:
        for place, batch in consumer.poll(timeout_ms=_POLL_MS).items():
            # What was written since the end was asked for is not ours: the cut says so.
            records[place] += [record for record in batch if record.offset < ends[place]]
        total = sum(consumer.position(place) for place in places)
        if total != before:
            moved, before = monotonic(), total
        elif monotonic() - moved > _STALL_SECONDS:
            where = ", ".join(f"{place.topic}-{place.partition}" for place in behind)
            raise BrokerError(f"no records came from {where} for {_STALL_SECONDS:.0f} s though its end is not reached.")
    return [record for place in places for record in records[place]], {p.partition: ends[p] for p in places}
