"""``python -m ops.demo``, what ``make demo`` runs; ends with 0 only if vectors changed as they must."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated
from uuid import uuid4

import typer
from rich.console import Console

from ops.broker import BrokerUnavailableError, find_broker
from ops.data import DataUnavailableError, Source, load
from ops.demo.act import Act
from ops.demo.errors import DemoError
from ops.demo.report import show
from ops.demo.world import World

_CACHE = Path(__file__).resolve().parents[2] / ".cache" / "demo"


def main(
    data: Annotated[Source, typer.Option(help="auto: MovieLens-100K, else made-up data.")] = "auto",
    events: Annotated[int, typer.Option(help="Live events at most; 0 = the whole second half.", min=0)] = 0,
    rate: Annotated[float, typer.Option(help="Live events a second.", min=1)] = 2_000.0,
) -> None:
    """Train on the first half in time, send the second half as live events, then let one new person click."""
    out = Console(width=None if sys.stdout.isatty() else 140)
    began = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    folder = _CACHE / uuid4().hex[:8]
    try:
        with find_broker(say=lambda text: out.print(f"  {text}", style="dim")) as broker:
            out.print(f"[bold]1[/] broker: {broker.description}")
            with World(broker.bootstrap_servers, f"demo-{uuid4().hex[:8]}.", folder) as world:
                story = Act(world, load(data), out, live=events, rate=rate).play()
        show(out, story, time.monotonic() - began)
    except (DemoError, BrokerUnavailableError, DataUnavailableError) as problem:
        out.print(f"[bold red]The demo failed:[/] {problem}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        out.print("Interrupted; everything that was started is stopped.")
        raise typer.Exit(130) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    typer.run(main)
