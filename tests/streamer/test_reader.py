"""The consumer library: snapshot, follow, tombstones, and nothing that is not newer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
from kafka import KafkaProducer

from ops.broker import FoundBroker
from streamer.errors import BrokerError, DataError
from streamer.reader import FactorReader, decode_factor
from streamer.steps.records import Publisher
from tests.conftest import MakeTopic

Encoding = Literal["json", "f32le"]


@dataclass(frozen=True, slots=True)
class _Record:
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    topic: str = "t"
    partition: int = 3
    offset: int = 9
    timestamp: int = 77


def _made(user: str, version: int, encoding: Encoding = "json", value: float = 0.1) -> _Record:
    publisher = Publisher("user", "test", "m1", 4, 7, encoding)
    ((key, body, _, headers),) = publisher.records(
        [user.encode()],
        np.full((1, 4), value, np.float32),
        [version],
        [5],
        [66],
        [b',"suppressed":["x"],"basis":"history"'],
        [b"i/0/1"],
        [3, 4],
        {},
    )
    return _Record(key, body, headers)


@pytest.mark.parametrize("encoding", ["json", "f32le"])
def test_both_encodings_give_the_same(encoding: Encoding) -> None:
    """The exact float32 values, and all that is said beside them."""
    factor = decode_factor(_made("ü", 2, encoding), "user")
    assert (factor.id, factor.kind, factor.version, factor.model_version) == ("ü", "user", 2, "m1")
    assert (factor.events, factor.event_time, factor.suppressed, factor.basis) == (5, 66, ("x",), "history")
    assert (factor.prior, factor.history_weight, factor.session_weight) == (None, None, None)
    assert (factor.published, factor.partition, factor.offset, factor.deleted) == (77, 3, 9, False)
    assert factor.vector is not None
    assert factor.vector.dtype == np.float32
    np.testing.assert_array_equal(factor.vector, np.full(4, 0.1, np.float32))
    with pytest.raises(ValueError, match="read-only"):
        factor.vector[0] = 1


def test_a_tombstone_has_no_vector() -> None:
    """The id is the key's."""
    factor = decode_factor(_Record(b"ann", None, []), "user")
    assert factor.deleted
    assert (factor.id, factor.vector, factor.version) == ("ann", None, 0)


def test_a_field_of_a_later_version_is_passed_over() -> None:
    """Adding a field must not stop consumers."""
    value = b'{"id":"a","vector":[1],"dimension":1,"model_version":"m","version":1,"new_field":{"x":1}}'
    assert decode_factor(_Record(b"a", value, []), "user").version == 1


@pytest.mark.parametrize(
    "value",
    [b"{", b'{"id":"a"}', b'{"id":"a","vector":[1,2],"dimension":3,"model_version":"m","version":1}'],
)
def test_damage_has_a_place(value: bytes) -> None:
    """Topic, partition and offset."""
    with pytest.raises(DataError, match="t-3 at offset 9 is no factor record"):
        decode_factor(_Record(b"a", value, []), "user")


def test_no_broker() -> None:
    """One sentence, not a stack from inside the client."""
    with pytest.raises(BrokerError, match=r"no Kafka broker answers at 127\.0\.0\.1:1 \(connection refused\)"):
        FactorReader("127.0.0.1:1")


class _Topic:
    """A factor topic to write to."""

    def __init__(self, broker: FoundBroker, name: str) -> None:
        self.name = name
        self._producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)

    def put(self, *records: _Record) -> None:
        for record in records:
            self._producer.send(self.name, record.value, record.key, record.headers, 0)
        self._producer.flush()

    def close(self) -> None:
        self._producer.close()


@pytest.fixture
def topic(broker: FoundBroker, topics: MakeTopic) -> Any:
    made = _Topic(broker, topics("user-factors", 2))
    yield made
    made.close()


@pytest.mark.integration
def test_snapshot_then_follow(broker: FoundBroker, prefix: str, topic: _Topic) -> None:
    """The newest of each id; then only what is newer; a tombstone deletes, and resets the version."""
    gone = _Record(b"cem", None, [])
    topic.put(_made("ann", 1), _made("bob", 3), _made("ann", 2, value=0.5), _made("cem", 4), gone)
    with FactorReader(broker.bootstrap_servers, prefix) as reader:
        now = reader.snapshot()
        assert {name: factor.version for name, factor in now.items()} == {"ann": 2, "bob": 3}
        topic.put(
            _made("ann", 2, value=0.9),  # published twice after a crash: the same revision
            _made("bob", 2),  # older
            _made("bob", 4, "f32le"),
            _made("cem", 1),  # back after the tombstone
            _Record(b"ann", None, []),
        )
        seen = [(factor.id, factor.version, factor.deleted) for factor in reader.follow(idle_seconds=1.0)]
    assert seen == [("bob", 4, False), ("cem", 1, False), ("ann", 0, True)]


@pytest.mark.integration
def test_follow_alone_starts_at_the_beginning(broker: FoundBroker, prefix: str, topic: _Topic) -> None:
    """Five lines are enough for a consumer that starts with nothing."""
    topic.put(_made("ann", 1), _made("ann", 2))
    index = {}
    with FactorReader(broker.bootstrap_servers, prefix, kind="user") as reader:
        for factor in reader.follow(idle_seconds=0.5):
            index[factor.id] = factor.vector
    assert list(index) == ["ann"]


@pytest.mark.integration
def test_aborted_vectors_are_never_seen(broker: FoundBroker, prefix: str, topic: _Topic) -> None:
    """read_committed: what a transaction took back has not happened."""
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, transactional_id=f"{prefix}x")
    producer.init_transactions()
    for version, end in ((1, producer.commit_transaction), (2, producer.abort_transaction)):
        producer.begin_transaction()
        record = _made("ann", version)
        producer.send(topic.name, record.value, record.key, record.headers, 1)
        producer.flush()
        end()
    producer.close()
    with FactorReader(broker.bootstrap_servers, prefix) as reader:
        assert reader.snapshot()["ann"].version == 1
        assert list(reader.follow(idle_seconds=0.5)) == []


@pytest.mark.integration
def test_a_missing_topic(broker: FoundBroker, prefix: str) -> None:
    """And none is made by asking."""
    for _ in range(2):
        with pytest.raises(BrokerError, match=f"there is no topic {prefix}item-factors"):
            FactorReader(broker.bootstrap_servers, prefix, kind="item")
