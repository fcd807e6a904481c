"""`streamer validate`: would a worker take these events? No broker needed; the worker's own reader decides."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from schemas.records import Interaction, Policy
from streamer.commands.shared import ConfigOption, FileArgument, JsonOption, dump, lines_of, say, settings_of
from streamer.errors import CheckFailed
from streamer.events.read import Reader
from streamer.events.verdicts import Filtered, Rejected


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file as the record that a producer would make of it; the `Record` of the reader."""

    value: bytes
    key: bytes | None
    timestamp: int
    offset: int
    headers: Sequence[tuple[str, bytes | None]] = ()
    partition: int = 0


def validate(file: FileArgument, config: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """Check events, one JSON object a line, as a worker would that got them now. Exit code 1 if one would be refused.

    Times are judged against this machine's clock and the policy of this configuration; a worker follows its model's.
    What depends on a user's earlier events (duplicates, caps) is not decided here.
    """
    settings = settings_of(config)
    reader = Reader(
        settings.policy,
        tenant=settings.events.tenant,
        max_bytes=settings.events.max_bytes,
        invalid_items=frozenset(),
    )
    now, counts = time.time_ns() // 1_000_000, Counter[str]()
    with lines_of(file) as lines:
        for number, text in lines:
            verdict = reader.read(Line(text, key_of(text), now, number))
            if isinstance(verdict, Interaction):
                # Of old data every line would be late or outside of the window: the counts say so.
                counts[_age(verdict, now, settings.policy)] += 1
            else:
                counts["refused" if isinstance(verdict, Rejected) else "filtered"] += 1
                _tell(file, number, verdict, as_json=as_json)
    total = counts.total()
    kinds = ", ".join(f"{counts[kind]:,} {kind}" for kind in ("good", "refused", "filtered", "late"))
    summary = f"{total:,} events: {kinds}"
    if counts["refused"]:
        raise CheckFailed(f"{summary}.")
    say(f"{summary}.")


def key_of(text: bytes) -> bytes | None:
    """The key that an event is to be sent with, its user id; None where there is none to be found."""
    try:
        event = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if isinstance(event, dict) and "specversion" in event:
        event = event.get("data")
    user = event.get("user_id") if isinstance(event, dict) else None
    return user.encode() if isinstance(user, str) else None


def _age(event: Interaction, now: int, policy: Policy) -> str:
    """What the worker decides with the row at hand, and without looking at it."""
    if event.timestamp < now - policy.window_ms:
        return "filtered"
    return "late" if event.timestamp < now - policy.lateness_ms else "good"


def _tell(file: str, number: int, verdict: Rejected | Filtered, *, as_json: bool) -> None:
    errors = verdict.errors if isinstance(verdict, Rejected) else ()
    if as_json:
        dump(
            {
                "line": number,
                "outcome": "dead_letter" if isinstance(verdict, Rejected) else "filtered",
                "reason": verdict.reason.value,
                "errors": [{"path": error.path, "message": error.message} for error in errors],
            }
        )
        return
    details: list[Any] = [*errors] or [""]
    for detail in details:
        kind = verdict.reason.value if isinstance(verdict, Rejected) else f"filtered: {verdict.reason.value}"
        print(f"{file}:{number}: {kind}: {detail}" if detail else f"{file}:{number}: {kind}")
