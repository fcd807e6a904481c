"""Logs: one JSON line an event, ours and the libraries', without payloads and known noise."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from streamer.telemetry.logs import Seldom, setup_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A stream that gets the logs; the logging of the test session is put back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def _lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_elsewhere_than_on_a_terminal(stream: io.StringIO) -> None:
    """Structlog and the standard library come out alike."""
    setup_logging("info", "auto", stream)
    structlog.get_logger("streamer.engine").info("partition_ready", tp="t-0", offset=7)
    logging.getLogger("some.library").warning("%s failed %d times", "it", 3)
    ours, theirs = _lines(stream)
    assert ours | {"ts": ""} == {
        "ts": "",
        "level": "info",
        "event": "partition_ready",
        "logger": "streamer.engine",
        "tp": "t-0",
        "offset": 7,
    }
    assert (theirs["event"], theirs["level"], theirs["logger"]) == (
        "it failed 3 times",
        "warning",
        "some.library",
    )
    assert str(ours["ts"]).endswith("Z")


def test_console_is_text(stream: io.StringIO) -> None:
    """No colours into a file, whatever the format."""
    setup_logging("info", "console", stream)
    structlog.get_logger("x").info("hello", at=1)
    assert "hello" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()


def test_levels(stream: io.StringIO) -> None:
    """Below the level nothing is said; libraries of the data path start at warning."""
    setup_logging("info", "json", stream)
    structlog.get_logger("streamer").debug("quiet")
    logging.getLogger("aiokafka.consumer.fetcher").info("Fetched {'user': 'secret'}")
    logging.getLogger("faust.app").info("noise")
    assert _lines(stream) == []


def test_expected_retries_are_not_warnings(stream: io.StringIO) -> None:
    """NOT_ENOUGH_REPLICAS right after a commit is retried by the client and means nothing."""
    setup_logging("info", "json", stream)
    log = logging.getLogger("aiokafka.producer.sender")
    log.warning("Got error produce response on topic-partition %s, retrying. Error: %s", "t", "NotEnoughReplicasError")
    log.warning("Got error produce response on topic-partition %s, retrying. Error: %s", "t", "Other")
    (line,) = _lines(stream)
    assert str(line["event"]).endswith("Other")


def test_payloads_do_not_appear(stream: io.StringIO) -> None:
    """Bytes become their number, long texts are cut."""
    setup_logging("info", "json", stream)
    structlog.get_logger("x").info("refused", value=b'{"user_id": "canary"}', text="c" * 9000)
    (line,) = _lines(stream)
    assert line["value"] == "<21 bytes>"
    assert len(str(line["text"])) < 600


def test_exceptions_stay_one_line(stream: io.StringIO) -> None:
    """A stack trace is a field, not forty lines."""
    setup_logging("info", "json", stream)
    try:
        raise ValueError("x")
    except ValueError:
        structlog.get_logger("x").exception("boom")
    (line,) = _lines(stream)
    assert "ValueError: x" in str(line["exception"])


def test_a_library_says_the_same_only_once_in_a_while() -> None:
    """Whatever the arguments; our own lines all pass."""
    now = 100.0
    seldom = Seldom(lambda: now)

    def line(name: str, text: str, *arguments: object) -> logging.LogRecord:
        return logging.LogRecord(name, logging.ERROR, "", 0, text, arguments, None)

    assert seldom.filter(line("aiokafka.conn", "no node %s", 1))
    assert not seldom.filter(line("aiokafka.conn", "no node %s", 2))
    assert seldom.filter(line("aiokafka.conn", "another"))
    assert all(seldom.filter(line("streamer.engine.partition", "fenced")) for _ in range(3))
    now += 5.0
    assert seldom.filter(line("aiokafka.conn", "no node %s", 3))
