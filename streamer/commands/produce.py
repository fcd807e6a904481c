"""`streamer produce`: send events from a file, as fast as wanted, with faults mixed in on request."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
import typer

from schemas.records import Policy
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
from streamer.commands.validate import key_of
from streamer.errors import DataError

_HOUR_MS = 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Shares:
    """How many faulty records to add for each event; 0.02 is one in fifty."""

    duplicate: float = 0.0
    late: float = 0.0
    malformed: float = 0.0


def _share(given: str | float) -> float:
    """A share as 0.02 or 2%; the command line also hands the default over, a number."""
    text = str(given)
    try:
        share = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a share (0.02) nor a percentage (2%)") from None
    if not 0.0 <= share <= 1.0:
        raise typer.BadParameter(f"{text!r} is not between 0 and 1")
    return share


def produce(
    file: FileArgument,
    config: ConfigOption = None,
    *,
    rate: Annotated[float, typer.Option(min=0, help="Events a second; 0 is as fast as possible.")] = 0.0,
    duplicate: Annotated[
        float, typer.Option(parser=_share, metavar="P", help="Send this share of the events twice.")
    ] = 0.0,
    late: Annotated[
        float, typer.Option(parser=_share, metavar="P", help="Add this share of events that come too late.")
    ] = 0.0,
    malformed: Annotated[
        float, typer.Option(parser=_share, metavar="P", help="Add this share of broken records.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Decides which faults are added, and where.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Send events, one JSON object a line, keyed by user id.

    The events themselves arrive unchanged and in order. Faults are extra records between them that must have no
    effect: a worker that is right ends in the same state with and without them.
    """
    from streamer.commands.cluster import consuming, places_of, producing

    settings = settings_of(config)
    topic = settings.topic("interactions")
    shares, counts = Shares(duplicate, late, malformed), Counter[str]()
    faults = Faults(shares, settings.policy, seed)
    with lines_of(file) as lines:
        with consuming(settings) as consumer:
            places_of(consumer, topic)
        with producing(settings, compression_type="lz4") as producer, Progress("events sent") as progress:
            pace = SendingPace(rate)
            for number, text in lines:
                key = key_of(text)
                if key is None:
                    raise DataError(
                        f"{file}:{number} is no event with a user_id; {counts['events']:,} events before it were sent. "
                        "`streamer validate` lists every mistake of a file."
                    )
                pace.wait()
                producer.send(topic, key, text)
                counts["events"] += 1
                for kind, value in faults.after(text):
                    producer.send(topic, key, value)
                    counts[kind] += 1
                progress.advance()
    kinds = ("events", "duplicate", "late", "malformed")
    if as_json:
        dump({kind: counts[kind] for kind in kinds} | {"records": counts.total()})
    else:
        say(f"{counts['events']:,} events sent to {topic}, {counts.total() - counts['events']:,} faults among them.")


class SendingPace:
    """Holds a loop to a rate; being late is made up for, so that the average is right."""

    def __init__(self, rate: float) -> None:
        self._gap = 1.0 / rate if rate > 0 else 0.0
        self._next = time.monotonic()

    def wait(self) -> None:
        """Until it is time for the next one."""
        if not self._gap:
            return
        ahead = self._next - time.monotonic()
        if ahead > 0.0005:
            time.sleep(ahead)
        self._next += self._gap


class Faults:
    """Which faults follow which event; the same seed and events give the same faults."""

    def __init__(self, shares: Shares, policy: Policy, seed: int) -> None:
        self._shares, self._policy = shares, policy
        # Two sources, so that what one kind of fault looks like moves no other fault to another place.
        self._places = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self._random = random.Random(seed + 1)  # noqa: S311
        self._made = 0

    def after(self, text: bytes) -> Iterator[tuple[str, bytes]]:
        """(kind, value) of the faults that follow an event."""
        # Always three draws: one share changes nothing about where the others strike.
        duplicate, late, malformed = (self._places.random() for _ in range(3))
        if duplicate < self._shares.duplicate:
            yield "duplicate", text
        if late < self._shares.late:
            yield "late", self._late(orjson.loads(text))
        if malformed < self._shares.malformed:
            yield "malformed", self._malformed(text)

    def _late(self, event: dict[str, Any]) -> bytes:
        """The same event from before the lateness bound, under a request id of its own."""
        data = event["data"] if "specversion" in event else event
        now, lateness = time.time_ns() // 1_000_000, self._policy.lateness_ms
        self._made += 1
        data["timestamp"] = max(0, now - lateness - self._random.randint(1, 48) * _HOUR_MS)
        data["request_id"] = f"late-{self._made}-{data.get('request_id', '')}"[:128]
        return orjson.dumps(event)

    def _malformed(self, text: bytes) -> bytes:
        """The event, broken in one of the ways in which producers break them."""
        event = orjson.loads(text)
        data = event["data"] if "specversion" in event else event
        match self._random.randrange(5):
            case 0:
                return text[: len(text) // 2]
            case 1:
                return text[:-1] + b"\xff}"
            case 2:
                data["event_type"] = "blick"
            case 3:
                data.pop("item_id", None)
            case _:
                data["value"] = "a lot"
        return orjson.dumps(event)
