"""`streamer items`: the catalogue, titles and states, into its topic."""

from collections.abc import Iterable
from typing import Any

import msgspec
import orjson
import typer

from schemas.records import CatalogueEntry
from streamer.commands.shared import (
    ConfigOption,
    FileArgument,
    JsonOption,
    Progress,
    dump,
    lines_of,
    say,
    settings_of,
)
from streamer.errors import DataError
from streamer.settings import Settings

app = typer.Typer(help="The item catalogue.", no_args_is_help=True)

_SHOWN = 20
_LONGEST_ID = 256

Catalogue = list[tuple[str, CatalogueEntry]]


@app.command()
def publish(file: FileArgument, config: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """Publish catalogue entries: objects with item_id, title and, where wanted, attributes and state.

    An item in the state withdrawn or banned gets no more events. Nothing is published if any line is wrong.
    """
    settings = settings_of(config)
    entries = read_catalogue(file)
    publish_catalogue(settings, entries)
    dump({"published": len(entries)}) if as_json else say(f"{len(entries):,} catalogue entries published.")


def read_catalogue(file: str) -> Catalogue:
    """The entries of a file, checked.

    Raises:
        DataError: lists the lines that are wrong.
    """
    entries: Catalogue = []
    wrong: list[str] = []
    with lines_of(file) as lines:
        for number, text in lines:
            try:
                entries.append(_entry(text))
            except (msgspec.DecodeError, orjson.JSONDecodeError, ValueError) as problem:
                wrong.append(f"line {number}: {problem}")
    if wrong:
        more = [f"and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
        listed = "".join(f"\n  {text}" for text in wrong[:_SHOWN] + more)
        raise DataError(f"{file} has {len(wrong)} wrong catalogue entries; nothing was published:{listed}")
    return entries


def _entry(text: bytes) -> tuple[str, CatalogueEntry]:
    fields: Any = orjson.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("must be an object")
    item_id = fields.pop("item_id", None)
    if not isinstance(item_id, str) or not 0 < len(item_id) <= _LONGEST_ID:
        raise ValueError(f"item_id must be text of 1 to {_LONGEST_ID} characters")
    return item_id, msgspec.convert(fields, CatalogueEntry)


def publish_catalogue(settings: Settings, entries: Iterable[tuple[str, CatalogueEntry]]) -> None:
    """Send entries, keyed by item id.

    Raises:
        BrokerError: the broker is not there, or the topic is missing.
    """
    from streamer.commands.cluster import consuming, places_of, producing

    topic = settings.topic("items")
    with consuming(settings) as consumer:
        places_of(consumer, topic)
    with producing(settings) as producer, Progress("catalogue entries") as progress:
        for item_id, entry in entries:
            producer.send(topic, item_id.encode(), msgspec.json.encode(entry))
            progress.advance()
