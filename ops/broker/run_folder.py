"""The folder of one broker: its data, its log, and a lock that tells whether its owner still lives."""

import fcntl
import os
import secrets
import shutil
from pathlib import Path

_LOCK = "owner.lock"


class RunFolder:
    """`<root>/<run>/`, removed at the end; folders of owners that were killed are swept up by the next run.

    Attributes:
        path: The folder itself.
        data: Where Kafka keeps its logs.
        log: What the broker printed.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        self.path = root / f"{os.getpid()}-{secrets.token_hex(4)}"
        self.data = self.path / "data"
        self.log = self.path / "broker.log"
        self.tmp = self.path / "tmp"
        self.tmp.mkdir(parents=True)
        # Not inherited by the JVM: the lock must fall with this process.
        self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def last_lines(self, count: int = 15) -> str:
        """The end of the broker's log, for error messages."""
        try:
            lines = self.log.read_text("utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return "(the broker printed nothing)"
        return "\n".join(lines[-count:]) or "(the broker printed nothing)"

    def remove(self) -> None:
        """Delete everything; safe to call twice."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _sweep(root: Path) -> None:
    """Remove the folders whose owner is gone: nobody holds their lock any more."""
    for lock in root.glob(f"*/{_LOCK}"):
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(lock.parent, ignore_errors=True)
        finally:
            os.close(descriptor)
