"""A closed kafka-python client closes its sockets.

Its event loop drops what still waits when it is closed: a request that was not written yet, a connection in the
making. The sockets that those tasks would have closed are then left to the garbage collector, which complains of them
wherever it happens to run (`ResourceWarning`; an error where warnings are errors).
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from kafka.net import compat
from kafka.net.selector import NetworkSelector


class ThoroughSelector(NetworkSelector):  # type: ignore[misc]  # kafka-python has no types
    """kafka-python's event loop; its end closes every socket that it ever waited for."""

    def __init__(self, **configs: Any) -> None:
        self._met: WeakSet[Any] = WeakSet()
        super().__init__(**configs)

    def register_event(self, fileobj: Any, event: int, task: Any) -> None:
        """Wait for a socket."""
        self._met.add(fileobj)
        super().register_event(fileobj, event, task)

    def close(self) -> None:
        """Stop the loop's thread, drop what waits, close what is left open."""
        super().close()
        for sock in list(self._met):
            sock.close()


def install() -> None:
    """Have kafka-python's clients of this process end thoroughly."""
    compat.NetworkSelector = ThoroughSelector
