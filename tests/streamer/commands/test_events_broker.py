"""`produce` and `dead-letters` on a real broker."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, TopicPartition

from schemas.outcomes import Reason
from streamer.commands.cluster import producing
from streamer.events.hashes import partition
from streamer.events.verdicts import FieldError
from streamer.settings import Settings
from streamer.steps.records import dead_letter
from tests.streamer.commands.calls import Commands
from tests.streamer.steps.world import FakeRecord

pytestmark = pytest.mark.integration


def _lines(count: int) -> list[bytes]:
    now = time.time_ns() // 1_000_000
    return [
        json.dumps(
            {
                "request_id": f"r{number}",
                "user_id": f"u{number % 7}",
                "item_id": "i",
                "event_type": "click",
                "timestamp": now,
            }
        ).encode()
        for number in range(count)
    ]


def _read(settings: Settings, topic: str) -> list[Any]:
    """All records of a topic, by another client than the one that sent them."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": "none",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    records, ended = [], 0
    consumer.assign([TopicPartition(settings.topic(topic), number, 0) for number in range(2)])
    while ended < 2:
        message = consumer.poll(10)
        assert message is not None
        if message.error():
            ended += 1
        else:
            records.append(message)
    consumer.close()
    return records


def test_produce_sends_bytes_as_they_are(connected: Commands, settings: Settings) -> None:
    """Keyed by user id on murmur2's partition, in order for each user, stamped by the broker."""
    lines = _lines(40)
    result = connected("produce", "-", "--json", stdin=b"\n".join(lines))
    assert result.json() == {"events": 40, "duplicate": 0, "late": 0, "malformed": 0, "records": 40}
    records = _read(settings, "interactions")
    assert sorted(record.value() for record in records) == sorted(lines)
    for record in records:
        assert record.partition() == partition(record.key(), 2)
        assert record.timestamp()[0] == TIMESTAMP_LOG_APPEND_TIME
    for user in {record.key() for record in records}:
        mine = [record.value() for record in records if record.key() == user]
        assert mine == [line for line in lines if json.loads(line)["user_id"].encode() == user]


def test_produce_adds_faults_between(connected: Commands, settings: Settings) -> None:
    """The events stay as they are, the faults are extra, and the counts are the topic's."""
    lines = _lines(200)
    arguments = ("produce", "-", "--json", "--duplicate", "10%", "--late", "0.1", "--malformed", "10%", "--seed", "7")
    counts = connected(*arguments, stdin=b"\n".join(lines)).json()
    records = [record.value() for record in _read(settings, "interactions")]
    assert len(records) == counts["records"] == 200 + counts["duplicate"] + counts["late"] + counts["malformed"]
    assert min(counts.values()) > 0
    assert sum(records.count(line) - 1 for line in lines) == counts["duplicate"]
    assert sum(b'"late-' in record for record in records) == counts["late"]


def test_produce_holds_a_rate(connected: Commands) -> None:
    """Thirty events at thirty a second take about a second."""
    started = time.monotonic()
    assert connected("produce", "-", "--rate", "30", stdin=b"\n".join(_lines(31))).code == 0
    assert 0.9 < time.monotonic() - started < 6


def test_produce_names_the_line_that_is_no_event(connected: Commands, settings: Settings) -> None:
    """Exit code 4, and it says how many events before it were sent."""
    result = connected("produce", "-", stdin=b"\n".join([*_lines(2), b'{"no": "user"}']))
    assert result.code == 4
    assert "-:3 is no event with a user_id; 2 events before it were sent" in result.err
    assert len(_read(settings, "interactions")) == 2


def test_produce_without_the_topic(streamer: Commands, environment: dict[str, str]) -> None:
    """It makes no topic by accident."""
    result = streamer("produce", "-", stdin=_lines(1)[0], **environment)
    assert result.code == 3
    assert "run `streamer topics create`" in result.err


def _bury(settings: Settings, *letters: tuple[bytes | None, bytes | None, Reason]) -> None:
    with producing(settings) as producer:
        for offset, (key, value, reason) in enumerate(letters):
            record = FakeRecord(key, value, offset, headers=(("h", b"1"),))
            errors = (FieldError("$.value", "must be > 0"),)
            key, value, _, headers = dead_letter(record, settings.topic("interactions"), reason, errors)
            producer.send(settings.topic("dead-letters"), key, value, headers, 0)


def test_show_says_what_and_why(connected: Commands, settings: Settings) -> None:
    """Newest last, by reason on request, payload only on request."""
    _bury(settings, (b"a", b"canary-1", Reason.SCHEMA), (b"b", b"x", Reason.NOT_JSON), (b"c", b"y", Reason.SCHEMA))
    result = connected("dead-letters", "show")
    assert result.code == 0
    assert "canary" not in result.out
    assert "3 of 3 dead letters: schema 2, not_json 1." in result.err
    rows = connected("dead-letters", "show", "--json", "--reason", "schema", "--payload").lines()
    assert [row["payload"] for row in rows] == ["canary-1", "y"]
    assert rows[0]["source"] == f"{settings.topic('interactions')}/0/0"
    assert rows[0]["errors"] == [{"path": "$.value", "message": "must be > 0"}]
    assert len(connected("dead-letters", "show", "--json", "--limit", "1").lines()) == 1
    assert connected("dead-letters", "show", "--reason", "nope").code == 2


def test_replay_sends_the_original(connected: Commands, settings: Settings) -> None:
    """Key, value and headers as they came, without what was added; nothing in a dry run."""
    good = _lines(1)[0]
    _bury(settings, (b"u0", good, Reason.FUTURE), (None, b"z", Reason.KEY_MISMATCH), (b"q", None, Reason.NOT_JSON))
    dry = connected("dead-letters", "replay", "--dry-run", "--json").json()
    assert dry == {"sent": 0, "chosen": 3, "reasons": {"future": 1, "key_mismatch": 1, "not_json": 1}}
    assert _read(settings, "interactions") == []
    assert connected("dead-letters", "replay", "--reason", "future", "--json").json()["sent"] == 1
    (record,) = _read(settings, "interactions")
    assert (record.key(), record.value(), record.headers()) == (b"u0", good, [("h", b"1")])
    # The same record, buried again after a replay, is there twice and goes out once.
    _bury(settings, (b"u0", good, Reason.FUTURE))
    assert connected("dead-letters", "replay", "--json").json()["sent"] == 3
    records = _read(settings, "interactions")
    assert sorted((record.key() or b"", record.value() or b"") for record in records) == [
        (b"", b"z"),
        (b"q", b""),
        (b"u0", good),
        (b"u0", good),
    ]


def test_something_else_in_the_topic(connected: Commands, settings: Settings) -> None:
    """A record that no worker wrote is exit code 4, with its place."""
    with producing(settings) as producer:
        producer.send(settings.topic("dead-letters"), b"k", b"v", [], 1)
    result = connected("dead-letters", "show")
    assert result.code == 4
    assert f"{settings.topic('dead-letters')}-1 at offset 0 has no header factors.reason" in result.err
