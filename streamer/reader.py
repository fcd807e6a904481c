"""For consumers of vectors: the present state of a factor topic, and everything that follows.

    with FactorReader("localhost:9092", kind="user") as reader:
        for factor in reader.follow():
            if factor.deleted:
                index.remove(factor.id)
            else:
                index.upsert(factor.id, factor.vector)

Only committed records are read, so that each effect is seen once; a record whose version is not newer than the last
one seen of its id is dropped, and a tombstone resets that. Both encodings are understood. Vectors of two values of
`model_version` live in different spaces: never score one against the other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec
import numpy as np
import numpy.typing as npt

from streamer.errors import BrokerError, DataError
from streamer.knock import knock

if TYPE_CHECKING:
    from kafka import KafkaConsumer

RECORD_HEADER = "factors.record"
"""Holds all but the vector when the value is raw float32 (`encoding = "f32le"`)."""

_POLL_MS = 200
_BOOTSTRAP_MS = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """One revision of one vector; a tombstone has no vector, version 0 and nothing else.

    ``vector`` is (k,) float32 and read-only, and so is ``session``, None where none is kept; ``event_time`` and
    ``published`` are milliseconds since 1970; ``weight`` is an item's, see the schema; ``bias`` is there with explicit
    feedback: a rating is foretold as ``global_mean`` (manifest) + both biases + dot product.
    """

    id: str
    kind: Literal["user", "item"]
    vector: npt.NDArray[np.float32] | None
    version: int
    model_version: str
    events: int
    event_time: int
    suppressed: tuple[str, ...]
    basis: str | None
    published: int
    partition: int
    offset: int
    session: npt.NDArray[np.float32] | None = None
    weight: float = 1.0
    bias: float | None = None
    prior: str | None = None
    history_weight: float | None = None
    session_weight: float | None = None

    @property
    def row(self) -> npt.NDArray[np.float32]:
        """The vector, and its bias behind it where it has one."""
        vector = np.zeros(0, np.float32) if self.vector is None else self.vector
        return vector if self.bias is None else np.append(vector, np.float32(self.bias))

    @property
    def deleted(self) -> bool:
        """Whether the id is gone: erased, or never heard of again."""
        return self.vector is None


class _Rest(msgspec.Struct):
    """What a factor record says; fields that a newer publisher adds are passed over."""

    id: str
    version: int
    model_version: str
    dimension: int
    events: int = 0
    event_time: int = 0
    suppressed: list[str] | None = None
    basis: str | None = None
    vector: list[float] | None = None
    session: list[float] | None = None
    weight: float | None = None
    bias: float | None = None
    prior: str | None = None
    history_weight: float | None = None
    session_weight: float | None = None


_DECODER = msgspec.json.Decoder(_Rest)


def decode_factor(record: Any, kind: Literal["user", "item"]) -> Factor:
    """A Kafka record of a factor topic (kafka-python's or aiokafka's) as a `Factor`.

    Raises:
        DataError: it is no factor record; the message has topic, partition and offset.
    """
    key = (record.key or b"").decode("utf-8", "replace")
    place = (record.timestamp, record.partition, record.offset)
    if record.value is None:
        return Factor(key, kind, None, 0, "", 0, 0, (), None, *place)
    raw = next((value for name, value in record.headers if name == RECORD_HEADER), None)
    try:
        rest = _DECODER.decode(record.value if raw is None else raw)
        vector = np.frombuffer(record.value, "<f4") if raw is not None else np.array(rest.vector, np.float32)
        if vector.shape != (rest.dimension,):
            raise ValueError(f"{vector.size} numbers where the dimension is {rest.dimension}")
    except (msgspec.DecodeError, ValueError) as problem:
        where = f"{record.topic}-{record.partition} at offset {record.offset}"
        raise DataError(f"{where} is no factor record: {problem}") from None
    vector.flags.writeable = False
    session = None
    if rest.session is not None:
        session = np.array(rest.session, np.float32)
        session.flags.writeable = False
    suppressed = tuple(rest.suppressed or ())
    return Factor(
        rest.id,
        kind,
        vector,
        rest.version,
        rest.model_version,
        rest.events,
        rest.event_time,
        suppressed,
        rest.basis,
        *place,
        session=session,
        weight=1.0 if rest.weight is None else rest.weight,
        bias=rest.bias,
        prior=rest.prior,
        history_weight=rest.history_weight,
        session_weight=rest.session_weight,
    )


class FactorReader:
    """Reads a factor topic outside of any consumer group, always from its start.

    Args:
        bootstrap_servers: `host:port`, several separated by commas.
        prefix: of the topic names.
        kind: whose vectors.
        topic: a full topic name instead, for a generation that has a topic of its own.
        options: more of kafka-python's `KafkaConsumer`, such as credentials.

    Raises:
        BrokerError: there is no broker, or no such topic.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        prefix: str = "factors.",
        kind: Literal["user", "item"] = "user",
        *,
        topic: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.kind, self.topic = kind, topic or f"{prefix}{kind}-factors"
        self._versions: dict[str, int] = {}
        self._servers = bootstrap_servers
        chosen = {"bootstrap_timeout_ms": _BOOTSTRAP_MS, "max_partition_fetch_bytes": 4 << 20, **(options or {})}
        chosen["bootstrap_servers"] = [server.strip() for server in bootstrap_servers.split(",")]
        self._consumer = self._connect(chosen)

    def _connect(self, options: dict[str, Any]) -> "KafkaConsumer":
        from kafka import KafkaConsumer, TopicPartition
        from kafka.errors import KafkaError

        from streamer import kafka_sockets

        kafka_sockets.install()
        knock(self._servers)
        try:
            consumer = KafkaConsumer(
                **options,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                allow_auto_create_topics=False,
                max_poll_records=5_000,
            )
        except KafkaError as problem:
            raise BrokerError(f"what listens at {self._servers} does not answer as Kafka: {problem}.") from None
        numbers = consumer.partitions_for_topic(self.topic) if self.topic in consumer.topics() else None
        if not numbers:
            consumer.close()
            raise BrokerError(f"there is no topic {self.topic} at {self._servers}.")
        self._places = [TopicPartition(self.topic, number) for number in sorted(numbers)]
        consumer.assign(self._places)
        consumer.seek_to_beginning(*self._places)
        return consumer

    def snapshot(self) -> dict[str, Factor]:
        """The newest vector of every id up to the topic's present end; `follow` goes on from there."""
        newest: dict[str, Factor] = {}
        ends = self._consumer.end_offsets(self._places)
        while any(self._consumer.position(place) < ends[place] for place in self._places):
            for factor in self._poll():
                if factor.deleted:
                    newest.pop(factor.id, None)
                else:
                    newest[factor.id] = factor
        return newest

    def follow(self, idle_seconds: float | None = None) -> Iterator[Factor]:
        """Every newer revision and every tombstone, from where the reader stands; blocks while there is none.

        ``idle_seconds``: end when nothing came for so long; None waits for ever.
        """
        last = monotonic()
        while True:
            for factor in self._poll():
                last = monotonic()
                yield factor
            if idle_seconds is not None and monotonic() - last >= idle_seconds:
                return

    def _poll(self) -> Iterator[Factor]:
        for records in self._consumer.poll(timeout_ms=_POLL_MS).values():
            for record in records:
                factor = decode_factor(record, self.kind)
                if factor.deleted:
                    self._versions.pop(factor.id, None)
                elif factor.version <= self._versions.get(factor.id, 0):
                    continue
                else:
                    self._versions[factor.id] = factor.version
                yield factor

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
