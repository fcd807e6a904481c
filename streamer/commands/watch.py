"""`streamer watch`: one vector as it changes."""

import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
import typer

from streamer.commands.shared import ConfigOption, JsonOption, dump, say, settings_of
from streamer.errors import CheckFailed
from streamer.reader import Factor
from streamer.settings import Settings

app = typer.Typer(help="Watch a vector change.", no_args_is_help=True)

_COLUMNS = ("published", "version", "events", "cosine", "norm", "age_seconds", "model_version", "basis")

Id = Annotated[str, typer.Argument(metavar="ID")]
CountOption = Annotated[int, typer.Option("--count", min=0, help="End after so many revisions; 0 is never.")]
SecondsOption = Annotated[
    float, typer.Option("--seconds", min=0, help="End when nothing came for so long; 0 waits for ever.")
]


@app.command()
def user(
    user_id: Id,
    config: ConfigOption = None,
    *,
    count: CountOption = 0,
    seconds: SecondsOption = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Show a user's vector and every new revision: cosine to the one before, norm, age of its newest event."""
    _watch(settings_of(config), "user", user_id, count, seconds, as_json=as_json)


@app.command()
def item(
    item_id: Id,
    config: ConfigOption = None,
    *,
    count: CountOption = 0,
    seconds: SecondsOption = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Show an item's vector and every new revision."""
    _watch(settings_of(config), "item", item_id, count, seconds, as_json=as_json)


def _watch(
    settings: Settings, kind: Literal["user", "item"], entity: str, count: int, seconds: float, *, as_json: bool
) -> None:
    shown, before = 0, None
    for factor in _revisions(settings, kind, entity, seconds):
        row = _row(factor, before)
        if as_json:
            vector = None if factor.vector is None else factor.vector
            dump({"id": entity, "kind": kind, **row, "suppressed": factor.suppressed, "vector": vector})
        else:
            _print(row, first=shown == 0)
        before, shown = factor, shown + 1
        if shown == count:
            return
    if not shown:
        raise CheckFailed(f"nothing was published for {kind} {entity}.")


def _revisions(settings: Settings, kind: Literal["user", "item"], entity: str, seconds: float) -> Iterator[Factor]:
    """The newest revision, then each further one."""
    from streamer.commands.cluster import consuming, place_of, read_to_end
    from streamer.reader import decode_factor

    key = entity.encode()
    with consuming(settings) as consumer:
        topic = settings.topic(f"{kind}-factors")
        place = place_of(consumer, topic, entity)
        newest, version = None, 0
        for record in read_to_end(consumer, [place]):
            if record.key == key:
                newest = record
        if newest is not None and newest.value is not None:
            factor = decode_factor(newest, kind)
            version = factor.version
            yield factor
        else:
            say(f"Nothing is published for {kind} {entity} yet; waiting (Ctrl-C ends).")
        last = time.monotonic()
        while not seconds or time.monotonic() - last < seconds:
            for records in consumer.poll(timeout_ms=100).values():
                for record in records:
                    if record.key != key:
                        continue
                    factor = decode_factor(record, kind)
                    if factor.deleted or factor.version > version:
                        version, last = factor.version, time.monotonic()
                        yield factor


def _row(factor: Factor, before: Factor | None) -> dict[str, Any]:
    published = time.strftime("%H:%M:%S", time.gmtime(factor.published / 1000))
    if factor.vector is None:
        return dict.fromkeys(_COLUMNS) | {"published": published, "basis": "erased"}
    norm = float(np.linalg.norm(factor.vector))
    return {
        "published": f"{published}.{factor.published % 1000:03d}",
        "version": factor.version,
        "events": factor.events,
        "cosine": _cosine(factor, before),
        "norm": round(norm, 4),
        "age_seconds": round(max(0.0, (factor.published - factor.event_time) / 1000.0), 3),
        "model_version": factor.model_version,
        "basis": factor.basis or "",
    }


def _cosine(factor: Factor, before: Factor | None) -> float | None:
    """To the revision before; None where there is none in the same space."""
    if before is None or before.vector is None or factor.vector is None:
        return None
    if before.model_version != factor.model_version:
        return None
    length = float(np.linalg.norm(before.vector) * np.linalg.norm(factor.vector))
    return round(float(before.vector @ factor.vector) / length, 6) if length else None


def _print(row: dict[str, Any], *, first: bool) -> None:
    """A line for each revision, so that what was seen stays on the screen."""
    widths = {"published": 13, "cosine": 9, "norm": 9, "age_seconds": 12, "model_version": 22}
    if first:
        print("  ".join(name.ljust(widths.get(name, 8)) for name in _COLUMNS))
    cells = ("" if row[name] is None else str(row[name]) for name in _COLUMNS)
    print(
        "  ".join(cell.ljust(widths.get(name, 8)) for name, cell in zip(_COLUMNS, cells, strict=True)),
        flush=True,
    )
