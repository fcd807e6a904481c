"""Calling the command line: in this process (fast), or as a process of its own (what a user sees)."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streamer.commands.cli import main

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON value on standard output."""
        return json.loads(self.out)

    def lines(self) -> list[Any]:
        """One JSON value a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Commands:
    """Calls commands in this process, with an environment of their own."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capture = patch, capture
        self.environment: dict[str, str] = {}
        for name in [name for name in os.environ if name.startswith("FACTORS_")]:
            patch.delenv(name)

    def __call__(self, *arguments: str, stdin: bytes = b"", **environment: str) -> Result:
        """Run `streamer` with these arguments; the environment holds for this call and those after it."""
        for name, value in (self.environment | environment).items():
            self._patch.setenv(name, value)
        self._patch.setattr(sys, "argv", ["streamer", *arguments])
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self._capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capture.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, out, err)


def process(*arguments: str, environment: Mapping[str, str] | None = None, stdin: bytes = b"") -> Result:
    """Run `python -m streamer` as a user would."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FACTORS_")}
    done = subprocess.run(
        [sys.executable, "-m", "streamer", *arguments],
        input=stdin,
        capture_output=True,
        cwd=ROOT,
        env=inherited | dict(environment or {}),
        timeout=40,
        check=False,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())
