"""Fixtures for every room: a real broker, and names of one's own on it."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from ops.broker import BrokerUnavailableError, FoundBroker, find_broker
from streamer import kafka_sockets

_CACHE = Path(__file__).parents[1] / ".cache"

# No deadline: on shared cores any example is slow now and then. What failed is kept with the other caches.
settings.register_profile("project", deadline=None, database=DirectoryBasedExampleDatabase(_CACHE / "hypothesis"))
settings.load_profile("project")

# The tests' own clients, too: a socket that one of them leaves open fails whatever test runs when it is collected.
kafka_sockets.install()

MakeTopic = Callable[..., str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for the broker is an integration test, whether or not its author said so."""
    for item in items:
        if "broker" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def broker() -> Iterator[FoundBroker]:
    """A Kafka broker that answers, shared by the session; skips with the reason where none can be had."""
    finding = find_broker(say=lambda text: print(text, file=sys.stderr))
    try:
        found = finding.__enter__()
    except BrokerUnavailableError as error:
        pytest.skip(str(error))
    try:
        yield found
    finally:
        finding.__exit__(None, None, None)


@pytest.fixture
def prefix() -> str:
    """A topic prefix that no other test has, in the form that the settings take."""
    return f"t{uuid4().hex[:12]}."


@pytest.fixture
def topics(broker: FoundBroker, prefix: str) -> Iterator[MakeTopic]:
    """`topics("name", partitions=1, **{"cleanup.policy": "compact"})` creates it and returns its full name.

    Everything below the test's prefix is deleted afterwards, whoever created it.
    """
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)

    def make(name: str, partitions: int = 1, **configs: str) -> str:
        full = f"{prefix}{name}"
        wanted: Mapping[str, object] = {
            full: {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
        }
        admin.create_topics(wanted, wait_for_metadata=True)
        return full

    try:
        yield make
    finally:
        _delete_below(admin, prefix)
        admin.close()


def _delete_below(admin: KafkaAdminClient, prefix: str) -> None:
    """Best effort: the broker may be down, because the test meant it to be."""
    try:
        mine = [name for name in admin.list_topics() if name.startswith(prefix)]
        if mine:
            admin.delete_topics(mine)
    except KafkaError:
        return
