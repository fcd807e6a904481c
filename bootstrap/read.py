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

from bootstrap.row import Row
from schemas.outcomes import OUTCOME_OF_REASON, Outcome, Reason
from schemas.records import DAY_MS, SUPPRESSING, CatalogueEntry, Interaction, Policy
from streamer.errors import DataError
from streamer.events.decode import decode
from streamer.events.hashes import ITEM_KEY_BYTES, fingerprint, item_hash, partition, request_hash
from streamer.events.verdicts import Filtered, Rejected
from streamer.factors.weigh import event_weight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from streamer.events.read import Reader
    from streamer.events.record import Record

Verdict = tuple[Outcome, Reason | None]
_EFFECTIVE = (Outcome.APPLIED, Outcome.SUPPRESSED)


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

    events: applied and suppressed, in log order; requests, fingerprints: the idempotency key of each; nexts: the
    offset after each (0 from a file); outcomes: one count a record; cut_offsets: partition -> first offset not read,
    empty from a file; cut_time: the newest broker's timestamp among the records (ms), None from a file; sha256: of the
    values of ``events``; catalogue: the items' entries, where there is one.
    """

    events: list[Interaction] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    fingerprints: list[int] = field(default_factory=list)
    nexts: list[int] = field(default_factory=list)
    outcomes: Counter[Verdict] = field(default_factory=Counter)
    cut_offsets: dict[str, int] = field(default_factory=dict)
    cut_time: int | None = None
    sha256: str = ""
    catalogue: dict[str, CatalogueEntry] = field(default_factory=dict)

    @property
    def records(self) -> int:
        """How many records were read; the outcomes add up to it."""
        return self.outcomes.total()


def read_file(
    path: str, reader: Reader, policy: Policy, *, now_ms: int, item_key: bytes = bytes(ITEM_KEY_BYTES)
) -> Log:
    """Read NDJSON from a file, or from standard input for ``-``; ``item_key`` as in `judge_records`.

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
    judge = _Judge(policy, lambda record: newest, item_key, judge_lateness=False)
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


def judge_records(
    records: Iterable[Record],
    reader: Reader,
    policy: Policy,
    *,
    partitions: int,
    item_key: bytes = bytes(ITEM_KEY_BYTES),
) -> Log:
    """Judge the records of a topic, each partition's in order, against their broker timestamps.

    ``item_key``: of the items' hashes, which decide what a full history forgets of two items of the same millisecond;
    that matters to ``cap_item_strength`` alone.
    """
    newest = 0

    def judged() -> Iterator[tuple[Record, Interaction | Rejected | Filtered]]:
        nonlocal newest
        for record in records:
            newest = max(newest, record.timestamp)
            event = reader.read(record)
            if isinstance(event, Interaction) and partition(record.key or b"", partitions) != record.partition:
                yield record, Rejected(Reason.WRONG_PARTITION)
            else:
                yield record, event

    judge = _Judge(policy, lambda record: record.timestamp, item_key, judge_lateness=True)
    log = judge.collect(judged(), lambda record: record.offset + 1)
    log.cut_time = newest
    return log


class _Judge:
    """The decisions that the stream takes with the user's row, over the whole log."""

    def __init__(self, policy: Policy, now: Callable[[Record], int], item_key: bytes, *, judge_lateness: bool) -> None:
        if policy.feedback == "explicit":
            # A newer rating replaces the older one: there is no strength that could grow beyond a cap.
            policy = msgspec.structs.replace(policy, cap_item_strength=0.0)
        self._policy = policy
        self._now = now
        self._lateness = policy.lateness_ms if judge_lateness else None
        self._caps = bool(policy.cap_user_events_per_day or policy.cap_item_strength)
        self._requests: dict[int, int] = {}
        self._days: dict[str, tuple[int, int]] = {}
        # Only where an item's strength is capped: the cap asks for what the history still holds.
        self._rows: dict[str, Row] = {}
        self._item_key = item_key

    def collect(
        self,
        judged: Iterable[tuple[Record, Interaction | Rejected | Filtered]],
        next_offset: Callable[[Record], int],
    ) -> Log:
        """Everything that has an effect, and a count of everything."""
        log, digest = Log(), hashlib.sha256()
        for record, event in judged:
            if not isinstance(event, Interaction):
                log.outcomes[OUTCOME_OF_REASON[event.reason], event.reason] += 1
                continue
            request = request_hash(event.tenant, event.user_id, event.request_id)
            payload = fingerprint(event)
            verdict = self._verdict(event, request, payload, self._now(record))
            log.outcomes[verdict] += 1
            if verdict[0] in _EFFECTIVE:
                self._requests[request] = payload
                log.events.append(event)
                log.requests.append(request)
                log.fingerprints.append(payload)
                log.nexts.append(next_offset(record))
                digest.update(record.value or b"")
                digest.update(b"\n")
        log.sha256 = digest.hexdigest()
        return log

    def _verdict(self, event: Interaction, request: int, payload: int, now: int) -> Verdict:
        seen, policy = self._requests.get(request), self._policy
        if seen is not None:
            return (Outcome.DUPLICATE if seen == payload else Outcome.CONFLICT), None
        suppressing = event.event_type in SUPPRESSING
        if self._caps and not suppressing and self._capped(event):
            return Outcome.FILTERED, Reason.CAPPED
        if event.timestamp < now - policy.window_ms:
            return Outcome.FILTERED, Reason.OUTSIDE_WINDOW
        if self._lateness is not None and event.timestamp < now - self._lateness:
            return Outcome.LATE, None
        if suppressing:
            if policy.cap_item_strength:
                self._row(event).suppress(
                    item_hash(event.item_id, self._item_key),
                    event.timestamp,
                    returned=event.event_type == "return",
                    capacity=policy.suppress_capacity,
                )
            return Outcome.SUPPRESSED, None
        if self._caps:
            self._count(event)
        return Outcome.APPLIED, None

    def _capped(self, event: Interaction) -> bool:
        """Whether a positive event is beyond a cap: strength of the item for the user, events of the user's day."""
        policy = self._policy
        if policy.cap_user_events_per_day:
            day, count = self._days.get(event.user_id, (-1, 0))
            if day == event.timestamp // DAY_MS and count >= policy.cap_user_events_per_day:
                return True
        if not policy.cap_item_strength:
            return False
        item = item_hash(event.item_id, self._item_key)
        strength = self._row(event).strength_at(item, event.timestamp, policy.half_life_ms)
        return strength >= policy.cap_item_strength

    def _row(self, event: Interaction) -> Row:
        return self._rows.setdefault(event.user_id, Row())

    def _count(self, event: Interaction) -> None:
        """Remember what the caps need."""
        policy, at = self._policy, event.timestamp
        if policy.cap_user_events_per_day:
            day, count = self._days.get(event.user_id, (-1, 0))
            today = at // DAY_MS
            self._days[event.user_id] = (max(day, today), 1 if today > day else count + (today == day))
        if policy.cap_item_strength:
            weight = event_weight(policy.weights, event.event_type, event.value)
            self._row(event).like(item_hash(event.item_id, self._item_key), weight, at, policy)


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
