"""Start the worker with patches: `python -m tests.chaos.worker PARENT_PID PATCH,PATCH run --role users`.

Patches change the modules of this process before the product's own main runs; see `tests.chaos.patches`.
The process dies with its parent, also when the parent is killed.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

from tests.chaos.patches import apply_patch

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Apply the patches, then be the product."""
    parent, patches, *arguments = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit(1)
    for patch in filter(None, patches.split(",")):
        apply_patch(patch)
    sys.argv = ["streamer", *arguments]
    runpy.run_module("streamer", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()
