"""Worker processes that a test starts: each is stopped at the end, whatever happened to the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.request import urlopen

from ops.broker.ports import free_ports
from tests.chaos.forge import Forge, Forged
from tests.chaos.patches import LANDED_FILE

CHECKOUT = Path(__file__).parents[2]
_STOP_SECONDS = 20.0


class WorkerProcess:
    """One worker; ``log`` holds what it wrote, ``landed`` which patches struck."""

    def __init__(
        self,
        name: str,
        folder: Path,
        environment: Mapping[str, str],
        patches: Sequence[str],
        role: str,
        forge: Forge | None,
    ) -> None:
        """Start it: from the forge, or without one as an operator does."""
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.port = name, free_ports(1)[0]
        self.log = folder / f"{name}.log"
        self._landed = folder / f"{name}.landed"
        self._landed.unlink(missing_ok=True)
        mine = {**environment, LANDED_FILE: str(self._landed), "FACTORS_HTTP__PORT": str(self.port)}
        arguments = ["run", "--role", role]
        self._process: subprocess.Popen[bytes] | Forged
        if forge is not None:
            self._process = forge.launch(patches, arguments, mine, self.log)
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.worker", str(os.getpid()), ",".join(patches), *arguments],
                cwd=CHECKOUT,
                env={**os.environ, **mine},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def running(self) -> bool:
        """Not ended yet."""
        return self._process.poll() is None

    @property
    def ended_with(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def landed(self) -> list[str]:
        """The patches that struck in this process."""
        return self._landed.read_text().split() if self._landed.exists() else []

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.running:
            self._process.send_signal(number)

    def wait(self, seconds: float) -> int | None:
        """The exit code once it ended, None if it does not in time."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def frozen(self) -> bool:
        """Stopped by SIGSTOP."""
        state = Path(f"/proc/{self._process.pid}/stat")
        return self.running and state.exists() and state.read_text().rpartition(")")[2].split()[0] == "T"

    def kill(self) -> None:
        """End it as a power cut would."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """End it as an operator would; kills it, and says so by -9, if it takes too long."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        code = self.wait(_STOP_SECONDS)
        if code is None:
            self.signal(signal.SIGUSR1)  # its last words say where it hangs
            self.wait(2.0)
            self.kill()
            return -signal.SIGKILL
        return code

    def scrape(self) -> str:
        """What its port says of itself."""
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:  # our own
            return str(answer.read().decode())

    def counters(self) -> dict[tuple[str, str], int]:
        """The worker's own count of records by (outcome, reason)."""
        found = {}
        for line in self.scrape().splitlines():
            if line.startswith("factors_events_total{"):
                labels, _, value = line.removeprefix("factors_events_total{").rpartition("} ")
                named = dict(label.split("=") for label in labels.replace('"', "").split(","))
                if float(value):
                    found[named["outcome"], named["reason"]] = int(float(value))
        return found
