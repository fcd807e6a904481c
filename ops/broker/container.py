"""The same broker in a container, where a Docker engine answers."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ops.broker.config import COMMON, NODE_ID, to_environment
from ops.broker.errors import BrokerUnavailableError
from ops.broker.jars import kafka_version, read_lock
from ops.broker.ports import free_ports
from ops.broker.ready import answers, is_listening

_DEFAULT_HOST = "unix:///var/run/docker.sock"
_ENGINE_TIMEOUT_S = 3
_START_TIMEOUT_S = 90
_CONTROLLER_PORT = 9093


def image() -> str:
    """The official image of the very version whose jars are pinned."""
    return f"apache/kafka:{kafka_version(read_lock())}"


def engine_answers() -> bool:
    """Whether a Docker engine is there; quick to say no."""
    if not _socket_answers(os.environ.get("DOCKER_HOST", _DEFAULT_HOST)):
        return False
    try:
        import docker
        from docker.errors import DockerException
    except ImportError:
        return False
    try:
        client = docker.from_env(timeout=_ENGINE_TIMEOUT_S)
    except (DockerException, OSError):
        return False
    try:
        return bool(client.ping())
    except (DockerException, OSError):
        return False
    finally:
        client.close()


def _socket_answers(host: str) -> bool:
    """Knock before the Docker library does: it leaves sockets open where nobody answers."""
    scheme, _, path = host.partition("://")
    if scheme != "unix":
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_ENGINE_TIMEOUT_S)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


@contextmanager
def container_broker() -> Iterator[str]:
    """Run the image; yields its bootstrap address.

    Raises:
        BrokerUnavailableError: The image could not be had, or did not answer in time.
    """
    from docker.errors import DockerException
    from testcontainers.core.container import DockerContainer

    with ExitStack() as undo:
        try:
            container = DockerContainer(image())
            undo.callback(container.stop)
            # The advertised address is part of the configuration, so the port is picked before the start.
            host, (port,) = container.get_docker_client().host(), free_ports(1)
            container.with_bind_ports(port, port)
            for key, value in container_environment(port, host).items():
                container.with_env(key, value)
            container.start()
            address = f"{host}:{port}"
            _wait_until_ready(address)
        # RuntimeError: how testcontainers says that a container ended at once.
        except (DockerException, OSError, RuntimeError) as error:
            raise BrokerUnavailableError(f"Docker answers, but {image()} did not start ({error}).") from error
        yield address


def _wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not (is_listening(address) and answers(address)):
        if time.monotonic() > deadline:
            raise BrokerUnavailableError(f"{image()} did not answer within {_START_TIMEOUT_S} s.")
        time.sleep(0.2)


def container_environment(port: int, host: str = "localhost") -> dict[str, str]:
    """The image's settings: the common ones, and listeners that the host reaches at `port`."""
    return to_environment(
        {
            **COMMON,
            "listeners": f"PLAINTEXT://0.0.0.0:{port},CONTROLLER://localhost:{_CONTROLLER_PORT}",
            "advertised.listeners": f"PLAINTEXT://{host}:{port}",
            "controller.quorum.voters": f"{NODE_ID}@localhost:{_CONTROLLER_PORT}",
        }
    )
