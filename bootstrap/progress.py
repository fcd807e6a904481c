"""Long work shown: a bar with loss and time left on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

Say = Callable[[int, str], None]
"""Takes the parts done so far and a short note."""
Show = Callable[[str, int], AbstractContextManager[Say]]
"""Takes what is done and of how many parts."""
_LINE_SECONDS = 2.0


@contextmanager
def shown(what: str, total: int) -> Iterator[Say]:
    """Show work of ``total`` parts; the value tells how far it is."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as bar:
            task = bar.add_task(what, total=total, note="")
            yield lambda done, note: bar.update(task, completed=done, total=max(total, done), note=note)
    else:
        yield _Lines(what, total)


class _Lines:
    """A line now and then, and one at the end."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._start = self._last = monotonic()

    def __call__(self, done: int, note: str) -> None:
        now = monotonic()
        if done < self._total and now - self._last < _LINE_SECONDS:
            return
        self._last = now
        # A total may be an estimate: what is beyond it takes no negative time.
        total = max(self._total, done)
        left = (now - self._start) / max(done, 1) * (total - done)
        print(f"{self._what}: {done:,} of {total:,}, {left:.0f} s left {note}".rstrip(), file=sys.stderr)
