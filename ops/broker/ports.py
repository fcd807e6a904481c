"""Free ports that stay free while the broker is down."""

import secrets
import socket
from pathlib import Path

_LOWEST = 10_000
_TRIES = 200


def free_ports(count: int) -> list[int]:
    """Pick ports nobody listens on, below the range that outgoing connections take theirs from.

    A port from that range would be lost at a restart: a client that keeps trying to reach the stopped broker
    is sooner or later given the very port as its own, and connects to itself.
    """
    highest = _ephemeral_start() - 1
    found: list[int] = []
    for _ in range(_TRIES):
        # Not `random`: two runs seeded alike would race for the same ports.
        port = _LOWEST + secrets.randbelow(highest - _LOWEST)
        if port not in found and is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free ports between {_LOWEST} and {highest}")


def is_free(port: int) -> bool:
    """Whether nobody listens on this port of the loopback."""
    with socket.socket() as probe:
        # As the broker binds: connections of an earlier run that linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _ephemeral_start() -> int:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii")
    except OSError:
        return 32_768
    return max(int(text.split()[0]), _LOWEST + 1_000)
