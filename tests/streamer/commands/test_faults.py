"""The faults that `produce` mixes in: reproducible, extra, and each of them something a worker must not apply."""

from __future__ import annotations

import json
import time

import pytest
import typer

from schemas.outcomes import Reason
from schemas.records import Interaction, Policy
from streamer.commands.produce import Faults, SendingPace, Shares, _share
from streamer.commands.validate import Line
from streamer.events.read import Reader
from streamer.events.verdicts import Rejected

EVENT = b'{"request_id":"r","user_id":"u","item_id":"i","event_type":"click","timestamp":1700000000000}'


def _made(shares: Shares, seed: int = 7, count: int = 400) -> list[tuple[str, bytes]]:
    faults = Faults(shares, Policy(), seed)
    return [fault for _ in range(count) for fault in faults.after(EVENT)]


def _kinds(made: list[tuple[str, bytes]]) -> set[str]:
    return {kind for kind, _ in made}


def test_shares_are_kept() -> None:
    """About one in so many, and none that was not asked for."""
    assert _made(Shares()) == []
    duplicates = _made(Shares(duplicate=0.1), count=2_000)
    assert _kinds(duplicates) == {"duplicate"}
    assert 150 < len(duplicates) < 250
    assert len(_made(Shares(1.0, 1.0, 1.0), count=5)) == 15


def test_the_seed_decides() -> None:
    """The same seed gives the same faults, another one others; one share does not move the others."""
    one, two = _made(Shares(0.1, 0.0, 0.1), 1), _made(Shares(0.1, 0.0, 0.1), 1)
    assert one == two
    assert one != _made(Shares(0.1, 0.0, 0.1), 2)
    only = [fault for fault in _made(Shares(0.1, 0.2, 0.0), 1) if fault[0] == "duplicate"]
    assert len(only) == len([fault for fault in one if fault[0] == "duplicate"])


def test_malformed_records_are_refused_by_the_reader() -> None:
    """Every one, for more than one reason."""
    reader = Reader(Policy(), tenant=None, max_bytes=65_536, invalid_items=frozenset())
    now = time.time_ns() // 1_000_000
    reasons = set()
    for _, value in _made(Shares(malformed=1.0), count=100):
        verdict = reader.read(Line(value, b"u", now, 0))
        assert isinstance(verdict, Rejected), value
        reasons.add(verdict.reason)
    assert reasons == {Reason.NOT_JSON, Reason.NOT_UTF8, Reason.UNKNOWN_EVENT_TYPE, Reason.SCHEMA}


def test_late_records_are_late_and_not_duplicates() -> None:
    """Older than the lateness bound, younger than the window, under request ids of their own."""
    policy, now = Policy(), time.time_ns() // 1_000_000
    reader = Reader(policy, tenant=None, max_bytes=65_536, invalid_items=frozenset())
    seen = set()
    for _, value in _made(Shares(late=1.0), count=50):
        verdict = reader.read(Line(value, b"u", now, 0))
        assert isinstance(verdict, Interaction)
        assert now - policy.window_ms < verdict.timestamp < now - policy.lateness_ms
        seen.add(verdict.request_id)
    assert len(seen) == 50
    assert "r" not in seen


def test_faults_of_an_envelope_stay_in_it() -> None:
    """A CloudEvents producer's faults are CloudEvents too."""
    text = json.dumps({"specversion": "1.0", "id": "r", "data": json.loads(EVENT)}).encode()
    faults = Faults(Shares(late=1.0), Policy(), 0)
    ((_, value),) = faults.after(text)
    assert json.loads(value)["data"]["request_id"].startswith("late-1")


@pytest.mark.parametrize(("text", "share"), [("0.02", 0.02), ("2%", 0.02), ("100%", 1.0), ("0", 0.0)])
def test_shares_and_percentages(text: str, share: float) -> None:
    """Both ways of writing it."""
    assert _share(text) == share


@pytest.mark.parametrize("text", ["2", "-1%", "x", "101%"])
def test_impossible_shares(text: str) -> None:
    """More than everything is a slip."""
    with pytest.raises(typer.BadParameter):
        _share(text)


def test_pace_holds_the_rate() -> None:
    """Forty events at two hundred a second take a fifth of a second."""
    pace, started = SendingPace(200.0), time.monotonic()
    for _ in range(40):
        pace.wait()
    assert 0.15 < time.monotonic() - started < 0.6
