"""Events in log order from a file or from the interactions topic, judged as the stream judges them.

Every decision that needs no row is the stream's own `Reader`. What the stream decides with the user's row is decided
here over the whole log: a repeated request id is a duplicate however old the first one is (a row remembers only a
bounded number), and the window and lateness bounds are judged against the record's broker timestamp. A file has no
broker timestamps: its newest event stands for "now" in the window, and no event of it is late.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from schemas.outcomes import OUTCOME_OF_REASON, Outcome, Reason
from schemas.records import SUPPRESSING, CatalogueEntry, Interaction, Policy
from streamer.errors import DataError
from streamer.events.decode import decode
from streamer.events.hashes import fingerprint, partition, request_hash
from streamer.events.verdicts import Filtered, Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from streamer.events.read import Reader
    from streamer.events.record import Record

Verdict = tuple[Outcome, Reason | None]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file in the shape of a Kafka record; its key is the user id that the line itself names."""

    value: bytes
    timestamp: int
    offset: int
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int = 0

    @property
    def key(self) -> bytes | None:
        """The user id in the value, so that a file's events are never a key mismatch."""
        event = decode(self.value)
        return event.user_id.encode() if event is not None else _named_user(self.value)


def _named_user(value: bytes) -> bytes | None:
    """The user id of an unusual event, in a CloudEvents envelope for instance."""
    try:
        parsed: Any = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if isinstance(parsed, dict) and "specversion" in parsed:
        parsed = parsed.get("data")
    user = parsed.get("user_id") if isinstance(parsed, dict) else None
    return user.encode("utf-8", "replace") if isinstance(user, str) else None


@dataclass(slots=True)
class Log:
    """What was read.

    events: applied and suppressed, in log order; nexts: the offset after each (0 from a file); outcomes: one count a
    record; cut_offsets: partition -> first offset not read, empty from a file; sha256: of the values of ``events``.
    """

    events: list[Interaction] = field(default_factory=list)
    nexts: list[int] = field(default_factory=list)
    outcomes: Counter[Verdict] = field(default_factory=Counter)
    cut_offsets: dict[str, int] = field(default_factory=dict)
    sha256: str = ""

    @property
    def records(self) -> int:
        """How many records were read; the outcomes add up to it."""
        return self.outcomes.total()


def read_file(path: str, reader: Reader, policy: Policy, *, now_ms: int) -> Log:
    """Read NDJSON from a file, or from standard input for ``-``.

    ``now_ms`` only bounds what may be believed: an event later than that is ``future``, as on the topic, so that one
    absurd timestamp cannot move everybody else out of the window.

    Raises:
        DataError: the file cannot be read.
    """
    with _lines(path) as lines:
        records = [
            Line(line, now_ms, offset) for offset, line in enumerate(text.rstrip(b"\r\n") for text in lines) if line
        ]
    judged = [(record, reader.read(record)) for record in records]
    newest = max((event.timestamp for _, event in judged if isinstance(event, Interaction)), default=now_ms)
    judge = _Judge(policy, lambda record: newest, judge_lateness=False)
    return judge.collect(judged, lambda record: 0)


@contextmanager
def _lines(path: str) -> Iterator[Iterable[bytes]]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        with Path(path).open("rb") as file:
            yield file
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror or problem}.") from None


def judge_records(records: Iterable[Record], reader: Reader, policy: Policy, *, partitions: int) -> Log:
    """Judge the records of a topic, each partition's in order, against their broker timestamps."""

    def judged() -> Iterator[tuple[Record, Interaction | Rejected | Filtered]]:
        for record in records:
            event = reader.read(record)
            if isinstance(event, Interaction) and partition(record.key or b"", partitions) != record.partition:
                yield record, Rejected(Reason.WRONG_PARTITION)
            else:
                yield record, event

    judge = _Judge(policy, lambda record: record.timestamp, judge_lateness=True)
    return judge.collect(judged(), lambda record: record.offset + 1)


class _Judge:
    """The decisions that the stream takes with the user's row, over the whole log."""

    def __init__(self, policy: Policy, now: Callable[[Record], int], *, judge_lateness: bool) -> None:
        self._policy = policy
        self._now = now
        self._lateness = policy.lateness_ms if judge_lateness else None
        self._requests: dict[int, int] = {}

    def collect(
        self,
        judged: Iterable[tuple[Record, Interaction | Rejected | Filtered]],
        next_offset: Callable[[Record], int],
    ) -> Log:
        """Everything that has an effect, and a count of everything."""
        log, digest = Log(), hashlib.sha256()
        for record, event in judged:
            if isinstance(event, Interaction):
                verdict = self._verdict(event, self._now(record))
                if verdict[0] in (Outcome.APPLIED, Outcome.SUPPRESSED):
                    log.events.append(event)
                    log.nexts.append(next_offset(record))
                    digest.update(record.value or b"")
                    digest.update(b"\n")
            else:
                verdict = (OUTCOME_OF_REASON[event.reason], event.reason)
            log.outcomes[verdict] += 1
        log.sha256 = digest.hexdigest()
        return log

    def _verdict(self, event: Interaction, now: int) -> Verdict:
        request, payload = request_hash(event.tenant, event.user_id, event.request_id), fingerprint(event)
        seen = self._requests.get(request)
        if seen is not None:
            return (Outcome.DUPLICATE if seen == payload else Outcome.CONFLICT), None
        if event.timestamp < now - self._policy.window_ms:
            return Outcome.FILTERED, Reason.OUTSIDE_WINDOW
        if self._lateness is not None and event.timestamp < now - self._lateness:
            return Outcome.LATE, None
        self._requests[request] = payload
        return (Outcome.SUPPRESSED if event.event_type in SUPPRESSING else Outcome.APPLIED), None


def read_catalogue(path: str) -> dict[str, CatalogueEntry]:
    """Catalogue entries of an NDJSON file, each with its ``item_id``.

    Raises:
        DataError: the file cannot be read, or a line is not an entry.
    """
    entries: dict[str, CatalogueEntry] = {}
    with _lines(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                fields = msgspec.json.decode(line, type=dict[str, Any])
                item_id = msgspec.convert(fields.pop("item_id", None), str)
                entries[item_id] = msgspec.convert(fields, CatalogueEntry)
            except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
                raise DataError(f"{path} line {number} is not a catalogue entry with an item_id: {problem}.") from None
    return entries


def invalid_items(catalogue: dict[str, CatalogueEntry]) -> set[str]:
    """The items that must not be trained on: withdrawn and banned ones."""
    return {item_id for item_id, entry in catalogue.items() if entry.state != "active"}
