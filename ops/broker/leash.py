"""Become another program that dies with the process which started it.

Run as a script: `python leash.py PARENT_PID COMMAND...`. It asks the kernel for SIGKILL at the parent's
death, then turns into the command (same pid), so that a killed test run leaves no broker behind. Elsewhere
than on Linux there is no such request; there the parent's exit handler ends the broker.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then exec the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # The parent may have died before the request: then nobody is left to be told.
        if os.getppid() != parent:
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
