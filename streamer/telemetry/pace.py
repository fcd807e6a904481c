"""How often something may happen."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Says yes at most ``per_second`` times a second, the first time at once."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = 1.0 / per_second, clock
        self._next = clock()

    def __call__(self) -> bool:
        """May it happen now? A yes counts."""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
