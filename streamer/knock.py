"""Is anything there? Asked before a Kafka client is made, which would try in silence for long."""

import socket

from streamer.errors import BrokerError

_CONNECT_SECONDS = 2.0


def knock(servers: str) -> None:
    """Return when one of the addresses (`host:port`, separated by commas) takes a connection.

    Raises:
        BrokerError: none does; the sentence says where, why, and what to do.
    """
    why = ""
    for server in servers.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
        except (OSError, ValueError) as problem:
            why = (getattr(problem, "strerror", None) or str(problem)).lower()
        else:
            return
    raise BrokerError(
        f"no Kafka broker answers at {servers} ({why}): start it, or set kafka.bootstrap_servers "
        "(FACTORS_KAFKA__BOOTSTRAP_SERVERS)."
    )
