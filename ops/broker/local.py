"""A real Apache Kafka on this machine, with nothing but Python: one KRaft node on the loopback."""

import atexit
import os
import signal
import subprocess
import sys
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from ops.broker.config import server_properties, to_properties
from ops.broker.errors import BrokerUnavailableError
from ops.broker.jars import CACHE, ensure_jars
from ops.broker.java import Java, find_java
from ops.broker.ports import free_ports, is_free
from ops.broker.ready import wait_until_ready
from ops.broker.run_folder import RunFolder

_LEASH = Path(__file__).with_name("leash.py")
_STOP_TIMEOUT_S = 15
_FORMAT_TIMEOUT_S = 60


class LocalBroker:
    """One broker: started by `start` or `with`, gone with its data after `stop`.

    Args:
        config: Broker settings over the defaults of `ops.broker.config`.
        heap: Largest Java heap, as in `-Xmx`.
        full_jit: Let Java compile hot code fully: slower to start, faster after a minute. For benchmarks.
        start_timeout_s: How long to wait for the first metadata reply.
        port: Where it listens; 0 takes a free one.
        cache: Folder that holds the jars and the data.
        say: Told, in a line, what takes long.
    """

    def __init__(
        self,
        *,
        config: Mapping[str, str] | None = None,
        heap: str = "384m",
        full_jit: bool = False,
        start_timeout_s: float = 60.0,
        port: int = 0,
        cache: Path = CACHE,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._overrides = dict(config or {})
        self._heap = heap
        self._full_jit = full_jit
        self._start_timeout_s = start_timeout_s
        self._asked = port
        self._cache = cache
        self._say = say
        self._java: Java | None = None
        self._jars: list[Path] = []
        self._folder: RunFolder | None = None
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """`host:port`; the same after a restart."""
        if not self._port:
            raise BrokerUnavailableError("the local broker was not started yet.")
        return f"127.0.0.1:{self._port}"

    @property
    def description(self) -> str:
        """One line for people: what runs, on which Java."""
        java = f"Java {self._java.major} from {self._java.origin}" if self._java else "not started"
        return f"a local Apache Kafka at {self.bootstrap_servers} ({java})"

    @property
    def pid(self) -> int | None:
        """The broker's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def data(self) -> Path | None:
        """The folder of the broker's data, which lasts until `stop`."""
        return self._folder.data if self._folder else None

    def start(self) -> Self:
        """Start on fresh data, or, after `kill` or `halt`, on the data and port of before.

        Raises:
            BrokerUnavailableError: No Java, no jars, or the broker did not answer in time.
        """
        if self.pid is not None:
            return self
        if self._folder is None:
            self._prepare()
        try:
            self._spawn()
        except BaseException:
            self.stop()
            raise
        return self

    def halt(self) -> None:
        """End the process as an operator would (SIGTERM), keeping data and port."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the process without a word (SIGKILL), keeping data and port."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze the broker: connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Halt, then start again on the same data and port."""
        self.halt()
        self.start()

    def stop(self) -> None:
        """End the process and delete its data; safe to call twice."""
        # Nothing of the data is kept, so an orderly shutdown would only cost time.
        self._end(signal.SIGKILL)
        if self._folder is not None:
            self._folder.remove()
            self._folder = None
        atexit.unregister(self.stop)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _prepare(self) -> None:
        if self._asked and not is_free(self._asked):
            raise BrokerUnavailableError(f"port {self._asked} is taken; name another one, or none for a free one.")
        self._java = find_java()
        self._jars = ensure_jars(cache=self._cache, say=self._say)
        self._folder = RunFolder(self._cache / "broker")
        atexit.register(self.stop)
        ports = [port for port in free_ports(3) if port != self._asked]
        self._port, controller_port = self._asked or ports[0], ports[1]
        config = server_properties(
            port=self._port,
            controller_port=controller_port,
            data=self._folder.data,
            overrides=self._overrides,
        )
        (self._folder.path / "server.properties").write_text(to_properties(config), "utf-8")

    def _spawn(self) -> None:
        folder, properties = self._started_folder()
        if not folder.data.exists():
            self._format(folder, properties)
        command = self._command("kafka.Kafka", str(properties))
        with folder.log.open("ab") as log:
            self._process = _start(command, log=log.fileno())
        wait_until_ready(self.bootstrap_servers, self._process, folder, timeout_s=self._start_timeout_s)

    def _format(self, folder: RunFolder, properties: Path) -> None:
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")
        command = self._command(
            "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "--config", str(properties)
        )
        with folder.log.open("ab") as log:
            process = _start(command, log=log.fileno())
            try:
                process.wait(_FORMAT_TIMEOUT_S)
            finally:
                _end(process, signal.SIGKILL)
        if process.returncode != 0:
            raise BrokerUnavailableError(
                f"Kafka could not format its data folder; its last words:\n{folder.last_lines()}"
            )

    def _command(self, main_class: str, *arguments: str) -> list[str]:
        folder, _properties = self._started_folder()
        if self._java is None:
            raise BrokerUnavailableError("the local broker was not started yet.")
        return [
            str(self._java.command),
            f"-Xmx{self._heap}",
            "-XX:+UseSerialGC",
            *([] if self._full_jit else ["-XX:TieredStopAtLevel=1"]),
            # Nothing outside the checkout: no /tmp/hsperfdata, no unpacked natives in /tmp.
            "-XX:-UsePerfData",
            f"-Djava.io.tmpdir={folder.tmp}",
            "-Djava.awt.headless=true",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-cp",
            os.pathsep.join(map(str, self._jars)),
            main_class,
            *arguments,
        ]

    def _started_folder(self) -> tuple[RunFolder, Path]:
        if self._folder is None:
            raise BrokerUnavailableError("the local broker was not started yet.")
        return self._folder, self._folder.path / "server.properties"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            _end(self._process, number)
            self._process = None


def _start(command: list[str], *, log: int) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own (Ctrl-C is ours to hear), on a leash that ends it with us."""
    leashed = [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), *command]

    def spawn() -> subprocess.Popen[bytes]:
        return subprocess.Popen(leashed, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    return _spawner().submit(spawn).result()


@cache
def _spawner() -> ThreadPoolExecutor:
    """One thread that lives as long as this process.

    Linux ties the leash to the *thread* that started the child: were that a short-lived one, the broker would
    die with it.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="broker-spawner")


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal the process and wait; a paused or stuck one is killed. Only ever the process given."""
    if process.poll() is None:
        process.send_signal(number)
        # A stopped process takes no SIGTERM until it goes on.
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
