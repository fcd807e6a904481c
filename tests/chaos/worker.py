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
from collections.abc import Iterable

from tests.chaos.patches import apply_patch

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Ask the kernel for SIGKILL at the parent's death."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # The parent may have died before the request: then nobody is left to be told.
        if os.getppid() != parent:
            sys.exit(1)


def _tell_all(*_: object) -> None:
    """Print where every task of every loop waits, for a post-mortem of a worker that hangs."""
    for loop in [one for one in gc.get_objects() if isinstance(one, asyncio.AbstractEventLoop)]:
        for task in asyncio.all_tasks(loop):
            task.print_stack(file=sys.stderr)
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
