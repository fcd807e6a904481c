"""Workers for tests that start many: one process imports everything once and forks, so that a start costs a fork.

`python -m tests.chaos.forge PARENT_PID` reads one order a line, ``{"patches", "arguments", "environment", "log"}``, and
answers with the pid; when a worker ends it says so, with its status. Measurements of restarts don't use it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

_PRELOADED = ("streamer.commands.cli", "streamer.app", "tests.chaos.worker", "streamer.factors.kernel.refresh")
_POLL_SECONDS = 0.02
_START_SECONDS = 120.0


class Forged:
    """A worker that the forge made; to be used like a `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid, self.stdin = pid, None
        self._ended = threading.Event()
        self._code: int | None = None

    def end(self, code: int) -> None:
        """The forge says that it ended."""
        self._code = code
        self._ended.set()

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(["forged worker"], timeout or 0.0)
        assert self._code is not None
        return self._code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Forge:
    """The process, seen from the tests; a context manager."""

    def __init__(self, checkout: Path) -> None:
        self._checkout = checkout
        self._started: queue.Queue[Forged] = queue.Queue()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.forge", str(os.getpid())],
            cwd=self._checkout,
            # Threads do not survive a fork.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._listen, name="forge", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def launch(
        self, patches: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> Forged:
        """Fork one worker."""
        order = {
            "patches": list(patches),
            "arguments": list(arguments),
            "environment": dict(environment),
            "log": str(log),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._started.get(timeout=_START_SECONDS)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        running: dict[int, Forged] = {}
        with contextlib.suppress(ValueError):  # the pipe was closed
            for line in self._process.stdout:
                pid, code = json.loads(line)
                if code is None:
                    running[pid] = Forged(pid)
                    self._started.put(running[pid])
                else:
                    running.pop(pid).end(code)


def main() -> None:
    """Import, then fork to order, and report the dead."""
    from tests.chaos.worker import die_with

    die_with(int(sys.argv[1]))
    for name in _PRELOADED:
        # Without the compiler the kernel can't be imported, and the worker does not.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    orders = sys.stdin.fileno()
    os.set_blocking(orders, False)
    pending = b""
    while True:
        if select.select([orders], [], [], _POLL_SECONDS)[0]:
            data = os.read(orders, 1 << 16)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                _say(_fork(json.loads(line)), None)
        _reap()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            _say(pid, os.waitstatus_to_exitcode(status))


def _say(pid: int, code: int | None) -> None:
    sys.stdout.write(f"{json.dumps([pid, code])}\n")
    sys.stdout.flush()


def _fork(order: dict[str, Any]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        _be_forged(order, parent)
    return pid


def _be_forged(order: dict[str, Any], parent: int) -> NoReturn:
    """In the child: as if started afresh with these arguments, environment and output."""
    from tests.chaos.worker import be_the_worker, die_with

    code = 1
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(order["environment"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        die_with(parent)
        be_the_worker(order["patches"], order["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  # nothing may get back into the forge's own loop
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
