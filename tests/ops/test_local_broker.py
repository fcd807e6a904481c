"""The local broker against a real Apache Kafka."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from ops.broker import BrokerUnavailableError, LocalBroker
from ops.broker.jars import CACHE

pytestmark = [pytest.mark.integration, pytest.mark.slow]

_CHECKOUT = CACHE.parent


def _produce(broker: LocalBroker, topic: str, *values: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    for value in values:
        producer.send(topic, value)
    producer.flush(20)
    producer.close()


def _consume(broker: LocalBroker, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, 0)])
    consumer.seek_to_beginning()
    values: list[bytes] = []
    deadline = time.monotonic() + 20
    while len(values) < count and time.monotonic() < deadline:
        values.extend(r.value for records in consumer.poll(500).values() for r in records)
    consumer.close()
    return values


def _create(broker: LocalBroker, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    admin.close()


def _pid(broker: LocalBroker) -> int:
    assert broker.pid is not None
    return broker.pid


def _gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_it_keeps_data_and_address_over_a_restart_and_a_kill_and_leaves_nothing() -> None:
    """What was produced outlives SIGTERM and SIGKILL; after `stop` there is no process and no file."""
    with LocalBroker() as broker:
        address, data = broker.bootstrap_servers, broker.data
        assert data is not None
        _create(broker, "kept")
        _produce(broker, "kept", b"one", b"two")
        first = _pid(broker)
        broker.restart()
        assert broker.bootstrap_servers == address
        assert _pid(broker) != first
        assert _consume(broker, "kept", 2) == [b"one", b"two"]
        broker.kill()
        assert broker.pid is None
        broker.start()
        _produce(broker, "kept", b"three")
        assert _consume(broker, "kept", 3) == [b"one", b"two", b"three"]
        last = _pid(broker)
    assert _gone(last)
    assert not data.parent.exists()


def test_a_topic_that_nobody_created_is_not_made_up() -> None:
    """Topic creation is left to the tool for it; the overrides given reach the broker."""
    with LocalBroker(config={"message.max.bytes": "12345"}) as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
        try:
            consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers)
            consumer.partitions_for_topic("never-created")
            consumer.close()
            assert "never-created" not in admin.list_topics()
        finally:
            admin.close()
        properties = (broker.data or Path()).parent / "server.properties"
        assert "message.max.bytes=12345\n" in properties.read_text("utf-8")


def test_a_broken_setting_ends_with_the_brokers_last_words() -> None:
    """The error carries what Kafka said, and nothing stays behind."""
    before = set((CACHE / "broker").glob("*"))
    broker = LocalBroker(config={"num.io.threads": "minus one"})
    with pytest.raises(BrokerUnavailableError, match=r"num\.io\.threads"):
        broker.start()
    assert set((CACHE / "broker").glob("*")) <= before
    assert broker.pid is None


def _run_module() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ops.broker"],
        cwd=_CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(_CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _java_below(process: subprocess.Popen[str]) -> psutil.Process:
    (child,) = psutil.Process(process.pid).children()
    return child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_command_takes_its_broker_along_however_it_ends(number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM stop the broker in order; a killed command does not leave a Java behind either."""
    with _run_module() as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("127.0.0.1:")
        java = _java_below(process)
        process.send_signal(number)
        status = process.wait(20)
        assert status == (-number if number is signal.SIGKILL else 0)
        java.wait(20)
        assert _gone(java.pid)
