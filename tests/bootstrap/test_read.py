"""Reading a log: the stream's decisions, each record counted once, nothing invented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from bootstrap.read import Log, invalid_items, judge_records, read_catalogue
from schemas.outcomes import Outcome, Reason
from schemas.records import DAY_MS, Policy
from streamer.errors import DataError
from streamer.events.hashes import partition
from streamer.events.read import Reader
from tests.bootstrap.small import NOW_MS, Reading, changed, event

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the topic."""

    value: bytes
    key: bytes | None
    timestamp: int
    partition: int
    offset: int
    headers: tuple[tuple[str, bytes | None], ...] = ()


def topic_log(*records: Record, partitions: int = 4, policy: Policy | None = None) -> Log:
    policy = policy or Policy()
    reader = Reader(policy, tenant=None, max_bytes=65_536, invalid_items=())
    return judge_records(records, reader, policy, partitions=partitions)


def record(offset: int = 0, *, received: int = NOW_MS, place: int | None = None, **fields: Any) -> Record:
    value = event(**fields)
    key = value["user_id"].encode()
    return Record(orjson.dumps(value), key, received, partition(key, 4) if place is None else place, offset)


def test_every_record_has_one_outcome(reading: Reading) -> None:
    """The outcomes add up to the lines, each with the reason that the stream would give."""
    good = event(item="a")
    log = reading(
        good,
        good,
        {**good, "item_id": "b"},
        event(item="c", kind="hide"),
        event(item="d", kind="report"),
        event(item="e", kind="clik"),
        event(item="f", consent=False),
        event(item="g", traffic="bot"),
        event(item="h", value=-1),
        event(item="i", at=NOW_MS + DAY_MS),
        event(item="banned"),
        b"{",
        b'"\xff"',
        invalid_items={"banned"},
    )
    assert log.outcomes == {
        (Outcome.APPLIED, None): 1,
        (Outcome.DUPLICATE, None): 1,
        (Outcome.CONFLICT, None): 1,
        (Outcome.SUPPRESSED, None): 1,
        (Outcome.FILTERED, Reason.SET_ASIDE): 1,
        (Outcome.DEAD_LETTER, Reason.UNKNOWN_EVENT_TYPE): 1,
        (Outcome.FILTERED, Reason.NO_CONSENT): 1,
        (Outcome.FILTERED, Reason.BOT): 1,
        (Outcome.DEAD_LETTER, Reason.SCHEMA): 1,
        (Outcome.DEAD_LETTER, Reason.FUTURE): 1,
        (Outcome.FILTERED, Reason.INVALID_ITEM): 1,
        (Outcome.DEAD_LETTER, Reason.NOT_JSON): 1,
        (Outcome.DEAD_LETTER, Reason.NOT_UTF8): 1,
    }
    assert log.records == 13
    assert [one.item_id for one in log.events] == ["a", "c"]
    assert len(log.events) == len(log.requests) == len(log.fingerprints) == len(log.nexts)


def test_duplicates_count_within_one_user(reading: Reading) -> None:
    """The same request id of another user is another request; a retry in another envelope is a duplicate."""
    first = event(user="u", request_id="r")
    envelope = {
        "specversion": "1.0",
        "id": "r",
        "source": "/shop",
        "type": "interaction",
        "data": {key: value for key, value in first.items() if key != "request_id"},
    }
    log = reading(first, event(user="v", request_id="r"), envelope)
    assert log.outcomes == {(Outcome.APPLIED, None): 2, (Outcome.DUPLICATE, None): 1}


def test_the_newest_event_of_a_file_is_now(reading: Reading) -> None:
    """A file has no broker timestamps: the window ends at its newest believable event, and nothing is late."""
    policy = changed(window_ms=10 * DAY_MS, lateness_ms=DAY_MS)
    newest = NOW_MS - 100 * DAY_MS
    log = reading(
        event(item="a", at=newest - 11 * DAY_MS),
        event(item="b", at=newest),
        event(item="c", at=newest - 9 * DAY_MS),
        event(item="absurd", at=NOW_MS + 900 * DAY_MS),
        policy=policy,
    )
    assert [one.item_id for one in log.events] == ["b", "c"]
    assert log.outcomes[Outcome.FILTERED, Reason.OUTSIDE_WINDOW] == 1
    assert log.outcomes[Outcome.DEAD_LETTER, Reason.FUTURE] == 1


def test_topic_bounds_are_judged_by_the_broker(reading: Reading) -> None:
    """Window, lateness and the future are measured from each record's own broker timestamp."""
    policy = changed(window_ms=10 * DAY_MS, lateness_ms=DAY_MS)
    log = topic_log(
        record(0, item="a", at=NOW_MS - 50 * DAY_MS, received=NOW_MS - 50 * DAY_MS),
        record(1, item="b", at=NOW_MS - 2 * DAY_MS),
        record(2, item="c", at=NOW_MS - 11 * DAY_MS),
        record(3, item="d", at=NOW_MS + DAY_MS),
        record(4, item="e"),
        policy=policy,
    )
    assert [one.item_id for one in log.events] == ["a", "e"]
    assert log.nexts == [1, 5]
    assert log.outcomes[Outcome.LATE, None] == 1
    assert log.outcomes[Outcome.FILTERED, Reason.OUTSIDE_WINDOW] == 1
    assert log.outcomes[Outcome.DEAD_LETTER, Reason.FUTURE] == 1


def test_a_record_on_the_wrong_partition_is_refused() -> None:
    """A client that hashes otherwise would split a user in two; a wrong key cannot be ordered."""
    right = record(0)
    log = topic_log(
        record(1, item="b", place=(right.partition + 1) % 4),
        Record(right.value, b"somebody else", NOW_MS, right.partition, 2),
        right,
    )
    assert log.outcomes == {
        (Outcome.DEAD_LETTER, Reason.WRONG_PARTITION): 1,
        (Outcome.DEAD_LETTER, Reason.KEY_MISMATCH): 1,
        (Outcome.APPLIED, None): 1,
    }


def test_caps_bound_a_day_and_an_item(reading: Reading) -> None:
    """Beyond the cap of a day, or of an item's strength, positive events are filtered; suppressing ones are not."""
    events = [event(item=f"i{number}", at=NOW_MS + number) for number in range(4)]
    hide = event(item="i9", kind="hide", at=NOW_MS + 9)
    log = reading(*events, hide, policy=changed(cap_user_events_per_day=2))
    assert log.outcomes[Outcome.FILTERED, Reason.CAPPED] == 2
    assert log.outcomes[Outcome.SUPPRESSED, None] == 1
    again = [event(item="i", at=NOW_MS + number) for number in range(4)]
    log = reading(*again, policy=changed(cap_item_strength=4.0, half_life_ms=0))
    assert log.outcomes == {(Outcome.APPLIED, None): 2, (Outcome.FILTERED, Reason.CAPPED): 2}


def test_the_sum_names_what_was_trained_on(reading: Reading) -> None:
    """The hash depends on the events with an effect and on their order, on nothing else."""
    a, b, junk = event(item="a"), event(item="b"), b"{"
    assert reading(a, b).sha256 == reading(a, junk, b, a).sha256
    assert reading(a, b).sha256 != reading(b, a).sha256


def test_catalogue_names_the_items_to_leave_out(tmp_path: Path) -> None:
    """Only active items are trained on; a line that is no entry is named."""
    path = tmp_path / "items.ndjson"
    path.write_bytes(
        b'{"item_id":"a","title":"A"}\n\n{"item_id":"b","title":"B","state":"banned"}\n'
        b'{"item_id":"c","title":"C","state":"withdrawn"}\n'
    )
    assert invalid_items(read_catalogue(str(path))) == {"b", "c"}
    path.write_bytes(b'{"item_id":"a","title":"A"}\n{"title":"B"}\n')
    with pytest.raises(DataError, match="line 2"):
        read_catalogue(str(path))
    with pytest.raises(DataError, match="cannot be read"):
        read_catalogue(str(tmp_path / "nowhere"))
