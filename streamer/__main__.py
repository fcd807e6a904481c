"""`python -m streamer`, installed as `factors-streamer`."""

from streamer.commands.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
