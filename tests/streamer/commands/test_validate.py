"""`validate` decides as a worker would, without a broker, and names the line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from streamer.commands.validate import key_of
from tests.streamer.commands.calls import Commands, process


def _event(**changes: Any) -> dict[str, Any]:
    now = time.time_ns() // 1_000_000
    event = {"request_id": "r", "user_id": "u", "item_id": "i", "event_type": "click", "timestamp": now}
    return event | changes


def _ndjson(*events: Any) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def test_good_events(streamer: Commands, tmp_path: Path) -> None:
    """Exit code 0, nothing on standard output, a summary for people."""
    file = tmp_path / "events"
    file.write_bytes(_ndjson(_event(), _event(value=2.5)) + b"\n\n")
    result = streamer("validate", str(file))
    assert (result.code, result.out) == (0, "")
    assert result.err == "2 events: 2 good, 0 refused, 0 filtered, 0 late.\n"


def test_every_error_with_its_line(streamer: Commands) -> None:
    """Line numbers count blank lines; every error of a line is listed; exit code 1."""
    bad = _ndjson(_event()) + b"\n" + _ndjson(_event(value=-1, colour="red")) + b"{nope\n"
    result = streamer("validate", "-", stdin=bad)
    assert result.code == 1
    lines = result.out.splitlines()
    assert sum(line.startswith("-:3: schema: $.value: ") for line in lines) == 1
    assert sum(line.startswith("-:3: schema: $.colour: ") for line in lines) == 1
    assert sum(line.startswith("-:4: not_json: ") for line in lines) == 1
    assert "3 events: 1 good, 2 refused, 0 filtered" in result.err


def test_json_for_programs(streamer: Commands) -> None:
    """One object a bad line, with outcome, reason and errors."""
    events = _ndjson(_event(event_type="clik"), _event(traffic="bot"))
    refused, filtered = streamer("validate", "-", "--json", stdin=events).lines()
    assert (refused["line"], refused["outcome"], refused["reason"]) == (1, "dead_letter", "unknown_event_type")
    assert refused["errors"][0]["path"] == "$.event_type"
    assert filtered == {"line": 2, "outcome": "filtered", "reason": "bot", "errors": []}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"request_id": "\xff"}', "not_utf8"),
        (
            b'{"request_id":"r","user_id":"u","item_id":"i","event_type":"click","timestamp":1,"value":NaN}',
            "bad_number",
        ),
        (json.dumps(_event(timestamp=4_000_000_000_000)).encode(), "future"),
        (json.dumps(_event(context={"x": "y" * 70_000})).encode(), "too_large"),
        (b"[]", "schema"),
    ],
)
def test_reasons_are_the_workers(streamer: Commands, line: bytes, reason: str) -> None:
    """Each kind of bad input under the name that its dead letter would have."""
    assert streamer("validate", "-", "--json", stdin=line).lines()[0]["reason"] == reason


def test_filtered_events_are_no_mistake(streamer: Commands) -> None:
    """An event without consent is good data."""
    result = streamer("validate", "-", stdin=_ndjson(_event(consent=False)))
    assert result.code == 0
    assert "1 filtered" in result.err


def test_old_events_are_counted_as_the_policy_has_them(streamer: Commands) -> None:
    """Late beyond a week, outside of the window beyond ninety days; good data, and no line for each."""
    now = time.time_ns() // 1_000_000
    day = 86_400_000
    events = _ndjson(*(_event(timestamp=now - days * day) for days in (1, 8, 89, 91)))
    result = streamer("validate", "-", stdin=events)
    assert (result.code, result.out) == (0, "")
    assert result.err == "4 events: 1 good, 0 refused, 1 filtered, 2 late.\n"
    result = streamer("validate", "-", stdin=events, FACTORS_POLICY__LATENESS_MS=str(100 * day))
    assert result.err == "4 events: 3 good, 0 refused, 1 filtered, 0 late.\n"


def test_the_tenant_of_the_settings_counts(streamer: Commands) -> None:
    """The same configuration as the worker's."""
    event = _ndjson(_event(tenant="other"))
    assert "good, 0 refused, 0 filtered" in streamer("validate", "-", stdin=event).err
    assert "1 filtered" in streamer("validate", "-", stdin=event, FACTORS_EVENTS__TENANT="ours").err


def test_a_missing_file_is_exit_code_4() -> None:
    """The data is not there."""
    result = process("validate", "/no/such/file")
    assert result.code == 4
    assert result.err == "streamer: /no/such/file cannot be read: No such file or directory.\n"


def test_keys_of_events() -> None:
    """A producer keys by user id, also inside of a CloudEvents envelope."""
    assert key_of(b'{"user_id": "\xc3\xbc"}') == "ü".encode()
    assert key_of(b'{"specversion": "1.0", "data": {"user_id": "u"}}') == b"u"
    for text in (b"{", b"[]", b'{"user_id": 3}', b"{}", b'{"specversion": "1.0"}'):
        assert key_of(text) is None
