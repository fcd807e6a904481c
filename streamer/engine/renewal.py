"""The pass over a partition's rows after it cut over to another generation: where it is, and how fast it may go.

A row is also renewed before the first batch that touches it; the pass is for those that nothing touches.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from streamer.engine.store import Store
from streamer.steps.effects import Step

_ROWS = 512


class RenewalPace:
    """How many rows a second the passes of a worker may renew, all partitions together."""

    def __init__(self, rows_per_second: int) -> None:
        self._rate, self._free = rows_per_second, 0.0

    def wait(self) -> float:
        """Seconds until the next rows may be renewed."""
        return max(self._free - time.monotonic(), 0.0)

    def take(self, rows: int) -> None:
        """So many were."""
        self._free = max(self._free, time.monotonic()) + rows / self._rate


class Renewal:
    """One pass. `chunk` belongs into the store's thread."""

    def __init__(self, step: Step, store: Store, unwritten: Sequence[bytes]) -> None:
        """``unwritten``: keys that must have a row, whether or not the store has one (`Step.unwritten`)."""
        self.finished = False
        self._step, self._store, self._unwritten = step, store, unwritten
        self._last: bytes | None = None
        self._scanned, self._at = False, 0

    def chunk(self) -> tuple[list[bytes], list[bytes | None]]:
        """Keys and rows that are stale, of the next few hundred; `finished` when those were the last.

        Raises:
            StoreDamaged: a block can't be read.
        """
        found: Sequence[tuple[bytes, bytes | None]]
        if not self._scanned:
            found = self._store.after(self._last, _ROWS)
            self._scanned = len(found) < _ROWS
            self._last = found[-1][0] if found else self._last
        else:
            keys = self._unwritten[self._at : self._at + _ROWS]
            self._at += len(keys)
            found = list(zip(keys, self._store.get_many(keys), strict=True))
        self.finished = self._scanned and self._at >= len(self._unwritten)
        stale = [(key, row) for key, row in found if self._step.stale(key, row)]
        return [key for key, _ in stale], [row for _, row in stale]
