"""What the engine reports arrives in the metrics and in the health."""

import asyncio
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import aiohttp
import numpy as np
import pytest
from structlog.testing import capture_logs

from schemas.outcomes import Outcome, Reason
from streamer.settings import Settings
from streamer.steps.effects import Effects
from streamer.telemetry.observer import Telemetry
from streamer.telemetry.pace import Pace


def _value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return telemetry.metrics.registry.get_sample_value(f"factors_{name}", labels)


def _effects(**facts: float) -> Effects:
    return Effects(outcomes=Counter({(Outcome.APPLIED, None): 2}), facts=facts, norms=np.array([0.3, 0.4], np.float32))


def _records(*seconds_ago: float) -> list[Any]:
    now = time.time()
    return [SimpleNamespace(timestamp=int((now - ago) * 1000)) for ago in seconds_ago]


def test_a_user_batch() -> None:
    """Latency counts from the broker's timestamps, freshness is the newest event's."""
    telemetry = Telemetry(Settings(), ["users"])
    facts = {"users": 2, "cold_start": 1, "matrix_entries": 3, "solve_residual": 1e-7}
    telemetry.batch("users", _records(100, 50), _effects(**facts), {"read": 0.1})
    assert _value(telemetry, "event_to_publish_seconds_sum") == pytest.approx(150, abs=5)
    assert _value(telemetry, "freshness_seconds") == pytest.approx(50, abs=5)
    assert _value(telemetry, "events_total", outcome="applied", reason="") == 2
    assert _value(telemetry, "vector_norm_count", kind="user") == 2
    assert _value(telemetry, "cold_start_ratio") == 0.5
    assert _value(telemetry, "solve_residual") == 1e-7


def test_parity_is_of_the_last_minute_and_of_all_time() -> None:
    """An error shows for as many checks as a minute has, and in the largest since the start for good."""
    telemetry = Telemetry(Settings(), ["users"])
    for error in (1e-7, 2e-3, 1e-8):
        telemetry.batch("users", _records(1), _effects(parity_error=error), {})
    assert (_value(telemetry, "parity_error"), _value(telemetry, "parity_error_max")) == (2e-3, 2e-3)
    for _ in range(300):
        telemetry.batch("users", _records(1), _effects(parity_error=1e-7), {})
    assert (_value(telemetry, "parity_error"), _value(telemetry, "parity_error_max")) == (1e-7, 2e-3)
    assert _value(telemetry, "parity_checks_total") == 303


def test_a_pace_says_yes_so_often() -> None:
    """At once, and then no more than so often a second."""
    now = [0.0]
    pace = Pace(4.0, clock=lambda: now[0])

    def at(seconds: float) -> bool:
        now[0] = seconds
        return pace()

    said = [at(seconds) for seconds in (0.0, 0.1, 0.24, 0.25, 0.3, 9.0, 9.1)]
    assert said == [True, False, False, True, False, True, False]


@pytest.mark.parametrize(("late", "warned"), [(151, True), (149, False)])
def test_most_events_without_effect_are_told(late: int, warned: bool) -> None:
    """A feed whose events come late is a feed that changes nothing: a line a minute says so."""
    telemetry = Telemetry(Settings(), ["users"])
    outcomes: Counter[tuple[Outcome, Reason | None]] = Counter(
        {(Outcome.APPLIED, None): 300 - late, (Outcome.LATE, None): late - 10}
    )
    outcomes[Outcome.FILTERED, Reason.OUTSIDE_WINDOW] = 10
    telemetry.batch("users", _records(1), Effects(outcomes=outcomes), {})
    with capture_logs() as told:
        telemetry._warn_of_waste()
        telemetry._warn_of_waste()
    line = {"event": "most_events_without_effect", "log_level": "warning"}
    assert told == ([line | {"events": 300, "late": late - 10, "outside_window": 10}] if warned else [])


def test_an_item_batch_counts_no_event() -> None:
    """Signals are not events: the outcomes add up to the records of `interactions` alone."""
    telemetry = Telemetry(Settings(), ["items"])
    telemetry.batch("items", _records(1), _effects(item_update_norm=0.2, nonfinite=1), {})
    assert _value(telemetry, "event_to_publish_seconds_count") == 0
    assert _value(telemetry, "events_total", outcome="applied", reason="") == 0
    assert _value(telemetry, "vector_norm_count", kind="item") == 2
    assert _value(telemetry, "item_update_norm") == 0.2
    assert _value(telemetry, "nonfinite_total") == 1


def test_states_reach_health() -> None:
    """The restore's percentage is the port's."""
    telemetry = Telemetry(Settings(), ["users"])
    telemetry.loading_items(0.5)
    assert telemetry.health.ready().percent == 50.0
    telemetry.state("users", 0, "restoring", 0.25)
    assert telemetry.health.restored() == 0.25
    telemetry.transaction("users", "committed")
    telemetry.rebuilt("damaged")
    assert _value(telemetry, "transactions_total", result="committed") == 1
    assert _value(telemetry, "store_rebuild_total", reason="damaged") == 1


async def test_serving_listens_measures_and_lets_go() -> None:
    """The port answers inside the block only, and what nobody reports is asked for."""
    telemetry = Telemetry(Settings(), ["users"])
    telemetry.watch(lambda: [("factors.interactions", 0, 9)], lambda: 4)
    async with telemetry.serving(), aiohttp.ClientSession() as session:
        address = f"http://127.0.0.1:{telemetry.port}/readyz"
        telemetry.waiting("no model is active")
        async with session.get(address) as response:
            assert (await response.json())["reason"] == "no model is active"
        await asyncio.sleep(0)
        assert _value(telemetry, "consumer_lag", topic="factors.interactions", partition="0") == 9
        assert _value(telemetry, "store_rows") == 4
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(address)
