"""Be the worker, with patches: `python -m tests.chaos.worker PARENT_PID PATCH,PATCH run --role users`.

Patches change the modules of this process before the product's own main runs; see `tests.chaos.patches`.
The process dies with its parent, also when the parent is killed.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import gc
import os
import runpy
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.chaos.patches import apply_patch

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Ask the kernel for SIGKILL at the parent's death."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # The parent may have died before the request: then nobody is left to be told.
        if os.getppid() != parent:
            sys.exit(1)


def _awaits(waiting: Any) -> Iterator[str]:
    """The places of a coroutine and of what it awaits, outermost first."""
    while (frame := getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)) is not None:
        yield f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}:{frame.f_lineno}"
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)


def _tell_all(*_: object) -> None:
    """Print where every task of every loop waits, for a post-mortem of a worker that hangs."""
    gc.unfreeze()  # the worker has put what start-up made, its loops among it, out of the collector's sight
    for loop in [one for one in gc.get_objects() if isinstance(one, asyncio.AbstractEventLoop)]:
        for task in asyncio.all_tasks(loop):
            print(f"{task.get_name()}: {' > '.join(_awaits(task.get_coro()))}", file=sys.stderr)
    faulthandler.dump_traceback()


def be_the_worker(patches: Iterable[str], arguments: list[str]) -> None:
    """Apply the patches, then run the product's own main."""
    for patch in patches:
        apply_patch(patch)
    signal.signal(signal.SIGUSR1, _tell_all)
    sys.argv = ["streamer", *arguments]
    runpy.run_module("streamer", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    be_the_worker(filter(None, sys.argv[2].split(",")), sys.argv[3:])
