"""The jars of Apache Kafka: pinned by SHA-256, fetched once from Maven, verified before every use."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ops.broker.errors import BrokerUnavailableError

CHECKOUT = Path(__file__).parents[2]
CACHE = CHECKOUT / ".cache"
LOCK_FILE = Path(__file__).with_name("jars.sha256")

_FETCH_TIMEOUT_S = 60
_FETCH_THREADS = 8


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the lock file: Maven coordinates and the SHA-256 of the bytes they must name."""

    coordinates: str
    sha256: str

    @property
    def file_name(self) -> str:
        """`artifact-version.jar`, as Maven names it."""
        _group, artifact, version = self.coordinates.split(":")
        return f"{artifact}-{version}.jar"


def read_lock(path: Path = LOCK_FILE) -> tuple[Jar, ...]:
    """Read the pinned jars, one `sha256  group:artifact:version` a line."""
    lines = (line.split() for line in path.read_text("utf-8").splitlines() if not line.startswith("#"))
    return tuple(Jar(coordinates, sha256) for sha256, coordinates in (line for line in lines if line))


def kafka_version(jars: tuple[Jar, ...]) -> str:
    """The version of the broker that these jars make up."""
    coordinates = next(jar.coordinates for jar in jars if jar.coordinates.startswith("org.apache.kafka:kafka_"))
    return coordinates.rsplit(":", 1)[1]


def ensure_jars(
    *, cache: Path = CACHE, lock: Path = LOCK_FILE, say: Callable[[str], None] = lambda _: None
) -> list[Path]:
    """Return the class path, fetching what is missing; every jar has its pinned sum or nothing is returned.

    Raises:
        BrokerUnavailableError: A jar could not be fetched, or its bytes are not the pinned ones.
    """
    jars = read_lock(lock)
    folder = cache / "kafka" / kafka_version(jars)
    folder.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(folder / ".lock"):
        missing = [jar for jar in jars if not (folder / jar.file_name).exists()]
        if missing:
            say(f"fetching {len(missing)} jars of Apache Kafka {kafka_version(jars)} (once, about 45 MB)")
            _fetch(missing, folder)
        for jar in jars:
            _verify(folder / jar.file_name, jar)
    return [folder / jar.file_name for jar in jars]


def _fetch(jars: list[Jar], folder: Path) -> None:
    """Fetch aside, verify, then move into place: a half-written jar is never found by a later run."""
    aside = Path(tempfile.mkdtemp(prefix=".incoming-", dir=folder))
    try:
        with ThreadPoolExecutor(_FETCH_THREADS) as pool:
            paths = list(pool.map(_fetcher(aside), jars))
        for jar, path in zip(jars, paths, strict=True):
            _verify(path, jar)
            path.replace(folder / jar.file_name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _fetcher(aside: Path) -> Callable[[Jar], Path]:
    """A function that downloads one jar below `aside` with jgo, from the repositories jgo is set up for."""
    try:
        from jgo.config import GlobalSettings
        from jgo.maven import MavenContext
    except ImportError as error:
        raise BrokerUnavailableError(
            "the local Kafka broker needs the `local` extra: pip install 'streaming-factors[local]'"
        ) from error
    mirrors = GlobalSettings.load().repositories
    context = MavenContext(repo_cache=aside, remote_repos=mirrors or None, timeout=_FETCH_TIMEOUT_S)

    def fetch(jar: Jar) -> Path:
        try:
            return Path(context.create_dependency(jar.coordinates).artifact.resolve())
        # jgo speaks in RuntimeError, requests and urllib3 errors; each means the same to the user.
        except (OSError, RuntimeError) as error:
            raise BrokerUnavailableError(
                f"{jar.coordinates} could not be fetched from Maven ({error}); "
                "is the network there? A mirror can be named in jgo's configuration file."
            ) from error

    return fetch


def _verify(path: Path, jar: Jar) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != jar.sha256:
        raise BrokerUnavailableError(
            f"{jar.file_name} is refused: its SHA-256 is {found}, but {jar.sha256} is pinned; "
            f"remove {path} and try again."
        )


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold an advisory lock, so that two runs do not fetch the same jars side by side."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
