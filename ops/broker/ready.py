"""When is a broker ready? When it answers a metadata request; a listening port says little."""

import socket
import subprocess
import time
from typing import Protocol

from ops.broker.errors import BrokerUnavailableError

_PAUSE_S = 0.05
_ANSWER_TIMEOUT_MS = 5_000


class Log(Protocol):
    """Where the last words of a broker can be read."""

    def last_lines(self, count: int = 15) -> str:
        """The end of what it printed."""


def wait_until_ready(bootstrap_servers: str, process: subprocess.Popen[bytes], log: Log, *, timeout_s: float) -> None:
    """Return when the broker answers for itself.

    Raises:
        BrokerUnavailableError: It ended or did not answer in time; the message has its last log lines.
    """
    deadline = time.monotonic() + timeout_s
    while not (is_listening(bootstrap_servers) and answers(bootstrap_servers)):
        if process.poll() is not None:
            raise BrokerUnavailableError(
                f"Kafka ended with status {process.returncode} while starting; its last words:\n{log.last_lines()}"
            )
        if time.monotonic() > deadline:
            raise BrokerUnavailableError(
                f"Kafka was not ready after {timeout_s:.0f} s; its last words:\n{log.last_lines()}"
            )
        time.sleep(_PAUSE_S)


def is_listening(bootstrap_servers: str) -> bool:
    """Whether the first address takes connections (cheap, and quiet in the log)."""
    host, port = bootstrap_servers.split(",", maxsplit=1)[0].rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=1.0):
            return True
    except OSError:
        return False


def answers(bootstrap_servers: str) -> bool:
    """Whether a metadata request is answered with at least one live broker."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap_servers,
            request_timeout_ms=_ANSWER_TIMEOUT_MS,
            client_id="broker-probe",
        )
    except (KafkaError, OSError):
        return False
    try:
        return bool(admin.describe_cluster()["brokers"])
    except (KafkaError, OSError):
        return False
    finally:
        admin.close()
