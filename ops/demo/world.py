"""The demo's world: topics below a prefix of its own, the product's commands, and worker processes that end with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError, URLError

from ops.broker.ports import free_ports
from ops.demo.errors import DemoError

_CHECKOUT = Path(__file__).resolve().parents[2]
_LEASH = _CHECKOUT / "ops" / "broker" / "leash.py"
_YEAR_MS = 365 * 86_400_000
_READY_SECONDS = 180.0  # the user step is compiled once, which takes long where the cores are busy


@dataclass(slots=True)
class Process:
    """A process of the demo; ``log`` holds what it wrote, ``port`` is where a worker answers."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    port: int = 0

    def stop(self, seconds: float = 15.0) -> None:
        """End it: ask first, then make it."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a page of a worker; 0 while nothing listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as answer:
            return answer.code, answer.read().decode()
        except (URLError, OSError):
            return 0, ""


@dataclass(slots=True)
class World:
    """Everything below one prefix; leaving it stops what was started in it."""

    servers: str
    prefix: str
    folder: Path
    partitions: int = 4
    processes: list[Process] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self.processes):
            process.stop()

    def environment(self) -> dict[str, str]:
        """The settings of every process of the demo: wide bounds in time, for the data may span months."""
        return {
            **os.environ,
            "FACTORS_KAFKA__BOOTSTRAP_SERVERS": self.servers,
            "FACTORS_KAFKA__PREFIX": self.prefix,
            "FACTORS_TOPICS__PARTITIONS": str(self.partitions),
            "FACTORS_ENGINE__APP_ID": self.prefix.rstrip("."),
            "FACTORS_BOOTSTRAP__ARTIFACTS": str(self.folder / "artifacts"),
            "FACTORS_POLICY__WINDOW_MS": str(_YEAR_MS),
            "FACTORS_POLICY__LATENESS_MS": str(_YEAR_MS),
            "FACTORS_POLICY__KEYS_WINDOW_MS": str(2 * _YEAR_MS),
            "FACTORS_POLICY__SGD_RATE": "0.005",
        }

    def command(self, package: str, *arguments: str, quiet: bool = True) -> str:
        """Run a command of the product to its end and return what it printed.

        Raises:
            DemoError: it ended with another code than 0.
        """
        done = subprocess.run(
            [sys.executable, "-m", package, *arguments],
            cwd=_CHECKOUT,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if quiet else None,
            text=True,
            check=False,
        )
        if done.returncode:
            said = (done.stderr or done.stdout or "").strip()
            raise DemoError(f"`python -m {package} {' '.join(arguments)}` ended with {done.returncode}. {said}")
        return done.stdout

    def start(self, name: str, arguments: Sequence[str], *, port: int = 0, **environment: str) -> Process:
        """Start a process that ends with this one."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                [sys.executable, str(_LEASH), str(os.getpid()), sys.executable, *arguments],
                cwd=_CHECKOUT,
                env=self.environment() | environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                # Ctrl-C goes to this process alone, which then stops the others in order.
                start_new_session=True,
            )
        process = Process(name, popen, log, port)
        self.processes.append(process)
        return process

    def start_worker(self, role: str) -> Process:
        """A worker of one role, with a store and a port of its own."""
        port = free_ports(1)[0]
        return self.start(
            role,
            ["-m", "streamer", "run", "--role", role],
            port=port,
            FACTORS_HTTP__PORT=str(port),
            FACTORS_STATE__DIR=str(self.folder / f"state-{role}"),
            FACTORS_LOG__FORMAT="json",
        )


def wait_ready(worker: Process) -> float:
    """Seconds until the worker says that it is ready.

    Raises:
        DemoError: it ended, or is not ready in time; with its reason or last words.
    """
    began = time.monotonic()
    reason = "it does not answer"
    while time.monotonic() - began < _READY_SECONDS:
        if worker.popen.poll() is not None:
            raise DemoError(f"the {worker.name} worker ended: {worker.log.read_text(errors='replace')[-600:]}")
        status, body = worker.get("/readyz")
        if status == 200:
            return time.monotonic() - began
        reason = json.loads(body)["reason"] if status else reason
        time.sleep(0.05)
    raise DemoError(f"the {worker.name} worker was not ready after {_READY_SECONDS:.0f} s: {reason}")


def outcomes(worker: Process) -> dict[str, int]:
    """How many records the users worker counted, by outcome (and reason)."""
    found: dict[str, int] = {}
    for line in worker.get("/metrics")[1].splitlines():
        if line.startswith("factors_events_total{"):
            labels, _, count = line.removeprefix("factors_events_total{").rpartition("} ")
            named: dict[str, Any] = dict(label.split("=") for label in labels.replace('"', "").split(","))
            if float(count):
                name = named["outcome"] + (f" ({named['reason']})" if named["reason"] else "")
                found[name] = int(float(count))
    return found
