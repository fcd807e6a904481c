"""`streamer dead-letters`: what was refused and why, and sending it once more."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
import typer

from schemas.outcomes import DEAD_LETTER_REASONS, Outcome, Reason
from streamer.commands.shared import ConfigOption, JsonOption, Progress, dump, say, settings_of, table
from streamer.errors import DataError
from streamer.settings import Settings

app = typer.Typer(help="Show or send again what was refused.", no_args_is_help=True)

_OURS = ("__streams.errors.", "factors.")
# Conflicts go to dead letters too, under the name of their outcome.
_REASONS = (*(reason.value for reason in Reason if reason in DEAD_LETTER_REASONS), Outcome.CONFLICT.value)
_EXCERPT = 200


def _reason(text: str) -> str:
    if text not in _REASONS:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(_REASONS)}")
    return text


ReasonOption = Annotated[
    str | None, typer.Option("--reason", parser=_reason, metavar="R", help=f"Only these: {', '.join(_REASONS)}.")
]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: the record as it came, and what is said about it."""

    record: Any
    said: dict[str, str]

    @property
    def reason(self) -> str:
        """The first reason that applied."""
        return self.said.get("factors.reason", "")

    @property
    def source(self) -> tuple[str, int, int]:
        """Topic, partition and offset that it was read from."""
        return (
            self.said.get("__streams.errors.topic", ""),
            _number(self.said.get("__streams.errors.partition")),
            _number(self.said.get("__streams.errors.offset")),
        )

    def as_it_came(self) -> tuple[Any, ...]:
        """Key, value and headers; CloudEvents have their id and time in the headers."""
        return self.record.key, self.record.value, tuple(self.original_headers())

    def original_headers(self) -> list[tuple[str, bytes]]:
        """The headers that the record came with."""
        return [(name, value) for name, value in self.record.headers if not name.startswith(_OURS)]


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else -1


@app.command()
def show(
    config: ConfigOption = None,
    *,
    reason: ReasonOption = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many, the newest; 0 is all.")] = 20,
    payload: Annotated[
        bool, typer.Option("--payload", help="Show the beginning of the payload, which may be personal.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show dead letters, oldest first, with every error found."""
    settings = settings_of(config)
    letters = list(_letters(settings, reason))
    counts = Counter(letter.reason for letter in letters)
    chosen = letters[-limit:] if limit else letters
    rows = [_row(letter, payload=payload) for letter in chosen]
    if as_json:
        for row in rows:
            dump(row)
        return
    if rows:
        table(tuple(rows[0]), (_cells(row) for row in rows))
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.most_common()) or "none"
    say(f"{len(chosen):,} of {len(letters):,} dead letters: {listed}.")


def _row(letter: Letter, *, payload: bool) -> dict[str, Any]:
    topic, partition, offset = letter.source
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(letter.record.timestamp / 1000))
    row: dict[str, Any] = {
        "time": stamp,
        "source": f"{topic}/{partition}/{offset}",
        "reason": letter.reason,
        "bytes": len(letter.record.value or b""),
        "errors": _errors(letter),
    }
    if payload:
        row["payload"] = (letter.record.value or b"")[:_EXCERPT].decode("utf-8", "backslashreplace")
    return row


def _errors(letter: Letter) -> list[dict[str, str]]:
    try:
        errors = orjson.loads(letter.said.get("factors.errors", "[]"))
    except orjson.JSONDecodeError:
        return []
    return errors if isinstance(errors, list) else []


def _cells(row: dict[str, Any]) -> list[object]:
    errors = "; ".join(f"{error['path']}: {error['message']}" for error in row["errors"])
    return [errors if name == "errors" else cell for name, cell in row.items()]


@app.command()
def replay(
    config: ConfigOption = None,
    *,
    reason: ReasonOption = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many, the oldest first; 0 is all.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing, say what would be sent.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Send dead letters to the interactions topic again, as they came, each record once however often it failed.

    Events that had an effect in the meantime are recognised by their request ids, so that a second replay changes
    nothing; what is still wrong comes back as a new dead letter.
    """
    from streamer.commands.cluster import consuming, places_of, producing

    settings = settings_of(config)
    topic = settings.topic("interactions")
    with consuming(settings) as consumer:
        partitions = len(places_of(consumer, topic))
    # What failed again after an earlier replay is there twice.
    letters = list({one.as_it_came(): one for one in _letters(settings, reason)}.values())
    chosen = letters[:limit] if limit else letters
    counts = Counter(letter.reason for letter in chosen)
    if not dry_run and chosen:
        with producing(settings) as producer, Progress("dead letters", len(chosen)) as progress:
            for letter in chosen:
                key, value = letter.record.key, letter.record.value
                # Without a key the client would choose a partition; where it came from is the honest choice.
                number = letter.source[1] if key is None else None
                number = number if number is not None and 0 <= number < partitions else None
                producer.send(topic, key, value, letter.original_headers(), number)
                progress.advance()
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.most_common()) or "none"
    if as_json:
        dump({"sent": 0 if dry_run else len(chosen), "chosen": len(chosen), "reasons": counts})
    else:
        verb = "would be sent" if dry_run else "sent"
        say(f"{len(chosen):,} dead letters {verb} to {topic}: {listed}.")


def _letters(settings: Settings, reason: str | None) -> Iterator[Letter]:
    """All dead letters with a reason (None: any), oldest first."""
    from streamer.commands.cluster import consuming, places_of, read_to_end

    found: list[Letter] = []
    with consuming(settings) as consumer:
        topic = settings.topic("dead-letters")
        for record in read_to_end(consumer, places_of(consumer, topic)):
            said = {
                name: (value or b"").decode("utf-8", "replace")
                for name, value in record.headers
                if name.startswith(_OURS)
            }
            if "factors.reason" not in said:
                raise DataError(
                    f"{record.topic}-{record.partition} at offset {record.offset} has no header factors.reason: "
                    "something else than a worker writes to this topic."
                )
            letter = Letter(record, said)
            if reason is None or letter.reason == reason:
                found.append(letter)
    yield from sorted(found, key=lambda letter: (letter.record.timestamp, letter.source))
