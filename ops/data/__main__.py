"""``python -m ops.data``: write a data set as NDJSON files, the events cut in two."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import orjson
import typer

from ops.data import CACHE, DataUnavailableError, Source, load, write_ndjson

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder for before.ndjson, after.ndjson and items.ndjson.")],
    source: Annotated[Source, typer.Option(help="auto: MovieLens-100K, else made-up data.")] = "auto",
    split: Annotated[float, typer.Option(min=0, max=1, help="Share of the events in before.ndjson.")] = 0.5,
    end: Annotated[
        str,
        typer.Option(help="Shift all times so that the newest event is then: 'now', RFC 3339, or 'as-is'."),
    ] = "as-is",
    span: Annotated[
        str,
        typer.Option(help="Bring the times closer together, so that all lie within this: 6d, 12h; '' = as they are."),
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of the made-up data.")] = 0,
    cache: Annotated[Path, typer.Option(help="Where the download is kept.")] = CACHE,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write a data set as NDJSON: the events before and after a cut in time, and the catalogue."""
    try:
        data = load(source, seed=seed, cache=cache)
        data = data.squeezed(_milliseconds(span)) if span else data
        data = data if end == "as-is" else data.rebase(_moment(end))
    except (DataUnavailableError, ValueError) as reason:
        print(f"No data set: {reason}.", file=sys.stderr)
        raise typer.Exit(4) from None
    before, after = data.split(split)
    counts = {
        "before": write_ndjson(out / "before.ndjson", before),
        "after": write_ndjson(out / "after.ndjson", after),
        "items": write_ndjson(out / "items.ndjson", data.items),
    }
    if as_json:
        print(orjson.dumps({"source": data.name, "note": data.note, "folder": str(out), **counts}).decode())
        return
    if data.note:
        print(f"{data.note}.", file=sys.stderr)
    print("{}: {:,} events before the cut, {:,} after, {:,} items".format(data.name, *counts.values()))


def _moment(text: str) -> int:
    """Milliseconds since 1970 of ``now`` or of an RFC 3339 time with its offset."""
    if text == "now":
        return time.time_ns() // 1_000_000
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"--end {text} has no UTC offset")
    return round(moment.timestamp() * 1000)


def _milliseconds(text: str) -> int:
    """Milliseconds in ``6d``, ``12h``, ``30m``."""
    unit = {"d": 86_400_000, "h": 3_600_000, "m": 60_000}.get(text[-1:])
    if unit is None or not text[:-1].isdigit() or not int(text[:-1]):
        raise ValueError(f"--span {text} is no time: write 6d, 12h or 30m")
    return int(text[:-1]) * unit


if __name__ == "__main__":
    app()
