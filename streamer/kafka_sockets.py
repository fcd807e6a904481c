"""A closed kafka-python client closes its sockets.

Its event loop drops what still waits when it is closed: a request that was not written yet, a connection in the
making. The sockets that those tasks would have closed are then left to the garbage collector, which complains of them
wherever it happens to run (`ResourceWarning`; an error where warnings are errors).
"""

from __future__ import annotations

from typing import Any

from kafka.net import compat
from kafka.net.selector import NetworkSelector


class ThoroughSelector(NetworkSelector):  # type: ignore[misc]  # kafka-python has no types
    """kafka-python's event loop; its end closes every socket that somebody still waited for."""

    def close(self) -> None:
        """Stop the loop's thread, drop what waits, close what it waited for."""
        if not self._closed:
            self.stop()  # from here on nobody else touches the selector
            waited_for: list[Any] = [key.fileobj for key in self._selector.get_map().values()]
            super().close()
            for sock in waited_for:
                sock.close()


def install() -> None:
    """Have kafka-python's clients of this process end thoroughly."""
    compat.NetworkSelector = ThoroughSelector
