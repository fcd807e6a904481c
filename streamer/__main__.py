"""`python -m streamer`, installed as `factors-streamer`."""

import sys

try:
    from streamer.commands.cli import main
except ModuleNotFoundError as problem:
    raise SystemExit(
        f"streamer: {problem.name} is not installed for {sys.executable}: run `make install`, then .venv/bin/streamer "
        "(or .venv/bin/python -m streamer)."
    ) from None

__all__ = ["main"]

if __name__ == "__main__":
    main()
