"""What all commands have in common: their options, how they find the settings, and how they speak.

Results go to standard output (with `--json` as JSON, one object a line where there are many), everything else to
standard error, so that a pipe gets results only.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Self

import orjson
import typer

from streamer.configuration import CONFIG_VARIABLE
from streamer.errors import DataError
from streamer.settings import Settings, load_with_origins

if TYPE_CHECKING:
    from streamer.configuration import Origins

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help=f"TOML file with the settings; ${CONFIG_VARIABLE} names one too."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to parse.")]
FileArgument = Annotated[str, typer.Argument(metavar="FILE|-", help="NDJSON: one object a line; - is standard input.")]


class Choices:
    """What was chosen before the name of the command: `streamer --config FILE COMMAND`."""

    config: Path | None = None
    debug: bool = False


def settings_of(config: Path | None) -> Settings:
    """The settings that the command line asks for, with logs set up for a command at a terminal.

    Raises:
        ConfigError: lists every mistake.
    """
    return settings_and_origins(config)[0]


def settings_and_origins(config: Path | None) -> "tuple[Settings, Origins]":
    """As `settings_of`, and where each value came from."""
    found = load_with_origins(config_file(config))
    _quiet_clients()
    return found


def config_file(config: Path | None) -> Path | None:
    """The file that is read: the one named on the command line, else by the environment, else none."""
    named = os.environ.get(CONFIG_VARIABLE)
    return config or Choices.config or (Path(named) if named else None)


def _quiet_clients() -> None:
    """What a client library says on its way to an error would only hide the one sentence that counts."""
    import logging

    for name in ("kafka", "aiokafka"):
        logging.getLogger(name).setLevel(logging.DEBUG if Choices.debug else logging.CRITICAL)


def say(text: str) -> None:
    """A line for people, on standard error."""
    print(text, file=sys.stderr, flush=True)


def dump(value: object) -> None:
    """One JSON object, one line, on standard output."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY, default=str).decode() + "\n")
    sys.stdout.flush()


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """A table on a terminal; elsewhere the same as lines with tabs, which `cut` and `awk` take."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        shown = Table(*headings, title=title or None, title_justify="left")
        for row in rows:
            shown.add_row(*(_cell(cell) for cell in row))
        Console().print(shown)
        return
    print("\t".join(headings))
    for row in rows:
        print("\t".join(_cell(cell) for cell in row))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    # What others wrote must not move the terminal's cursor or open a column.
    return "".join(character if character.isprintable() else "�" for character in str(value))


@contextmanager
def lines_of(name: str) -> Iterator[Iterator[tuple[int, bytes]]]:
    """The lines of a file or of standard input ("-"), numbered from 1, without blank ones.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        file: BinaryIO = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115 - closed below
    except OSError as problem:
        raise DataError(f"{name} cannot be read: {problem.strerror or problem}.") from None
    try:
        yield _numbered(name, file)
    finally:
        if name != "-":
            file.close()


def _numbered(name: str, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    try:
        for number, line in enumerate(file, start=1):
            text = line.rstrip(b"\r\n")
            if text.strip():
                yield number, text
    except OSError as problem:
        raise DataError(f"{name} cannot be read: {problem.strerror or problem}.") from None


class Progress:
    """How far long work is: a bar on a terminal, a plain line every few seconds elsewhere, on standard error."""

    _LINE_SECONDS = 5.0

    def __init__(self, what: str, total: int | None = None) -> None:
        self._what, self._total = what, total
        self._done = 0
        self._bar: Any = None

    def __enter__(self) -> Self:
        from time import monotonic

        self._clock = monotonic
        self._last = self._start = monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._what, total=self._total)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, parts: int = 1) -> None:
        """Some more is done."""
        self._done += parts
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
            return
        now = self._clock()
        if now - self._last >= self._LINE_SECONDS:
            self._last = now
            of = f" of {self._total:,}" if self._total else ""
            rate = self._done / (now - self._start)
            say(f"{self._what}: {self._done:,}{of}, {rate:,.0f} a second")
