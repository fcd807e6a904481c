"""Round after round: when it is time, when it is wished for, and what a failure does."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from bootstrap.loop import Plan, ending_cleanly, repeat, seconds_of
from schemas.records import Retrain
from streamer.errors import BrokerError, CheckFailed, ConfigError


class World:
    """A clock that sleeping moves, a list of when training began, and wishes by their time."""

    def __init__(self, *, takes: float = 1.0, wishes: dict[float, int] | None = None) -> None:
        self.now, self.takes, self.wishes = 0.0, takes, wishes or {}
        self.began: list[float] = []
        self.said: list[str] = []
        self.fails: dict[int, Exception] = {}
        self.outage: Callable[[float], bool] = lambda now: False

    def train(self) -> None:
        self.began.append(self.now)
        self.now += self.takes
        if problem := self.fails.get(len(self.began)):
            raise problem

    def wished(self) -> Retrain | None:
        if self.outage(self.now):
            raise BrokerError("no broker answers")
        made = [at for since, at in self.wishes.items() if since <= self.now]
        return Retrain("retrain", "m1", made[-1], "loss", 0.2) if made else None

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        assert self.now < 100_000, "it waits for ever"
        self.now += max(seconds, 1e-3)

    def run(self, plan: Plan) -> int:
        return repeat(plan, self.train, self.wished, clock=lambda: self.now, sleep=self.sleep, say=self.said.append)


def test_every_counts_from_start_to_start() -> None:
    """At once, then on the clock; a round that takes longer is followed at once."""
    world = World(takes=10)
    assert world.run(Plan(60, False, 1, 3)) == 0
    assert world.began == [0, 60, 120]
    world = World(takes=90)
    world.run(Plan(60, False, 1, 3))
    assert world.began == [0, 90, 180]


def test_a_wish_starts_a_round_and_is_answered_once() -> None:
    """Not before there is one; the same wish does not start another, a newer one does."""
    world = World(wishes={100.0: 7, 400.0: 8})
    assert world.run(Plan(None, True, 5, 2)) == 0
    assert world.began == [pytest.approx(100, abs=5), pytest.approx(400, abs=5)]
    assert world.said[0] == "round 1: loss has shifted by 0.2 under m1"


def test_wishes_are_not_answered_too_often() -> None:
    """One that comes soon after a round waits."""
    world = World(wishes={10.0: 1, 12.0: 2, 20.0: 3})
    world.run(Plan(None, True, 300, 2))
    assert world.began[0] == 10
    assert 310 <= world.began[1] <= 315


def test_a_wish_made_during_a_round_waits_as_well() -> None:
    """It is there when the round ends, and the least time between rounds still counts."""
    world = World(takes=5, wishes={10.0: 1, 12.0: 2})
    world.run(Plan(None, True, 300, 2))
    assert world.began[0] == 10
    assert 310 <= world.began[1] <= 315


def test_an_error_of_the_program_is_told_and_the_next_round_comes(caplog: pytest.LogCaptureFixture) -> None:
    """One sentence, and the stack in the log."""
    world = World()
    world.fails = {1: ValueError("negative dimensions"), 2: ZeroDivisionError("by zero")}
    assert world.run(Plan(60, False, 1, 3)) == 0
    assert world.said[1] == "round 1 published nothing: an error of the program: ValueError: negative dimensions"
    assert world.began == [0, 60, 120]
    assert [record.exc_info is not None for record in caplog.records] == [True, True]
    world = World()
    world.fails = {1: ValueError("no")}
    assert world.run(Plan(60, False, 1, 1)) == 1


def test_clock_and_wishes_together() -> None:
    """Whichever comes first; the clock counts from the last round, whatever led to it."""
    world = World(wishes={50.0: 1})
    world.run(Plan(100, True, 5, 3))
    assert world.began[1] == pytest.approx(50, abs=5)
    assert world.began[2] == world.began[1] + 100


def test_what_fails_is_told_and_the_loop_goes_on() -> None:
    """Gates and outages alike; the exit code is the last round's."""
    world = World()
    world.fails = {1: CheckFailed("recall is 0.1 where 0.2 is the bound"), 2: BrokerError("no broker answers")}
    assert world.run(Plan(60, False, 1, 3)) == 0
    assert world.said[1] == "round 1 published nothing: recall is 0.1 where 0.2 is the bound"
    assert world.said[3] == "round 2 published nothing: no broker answers"
    world = World()
    world.fails = {2: BrokerError("no broker answers")}
    assert world.run(Plan(60, False, 1, 2)) == 3


def test_a_wish_that_failed_its_gates_is_not_tried_again_by_itself() -> None:
    """The next wish is."""
    world = World(wishes={10.0: 1, 500.0: 2})
    world.fails = {1: CheckFailed("no")}
    world.run(Plan(None, True, 20, 2))
    assert world.began == [10, 500]


def test_an_outage_while_looking_is_told_once() -> None:
    """And ends by itself."""
    world = World(wishes={10.0: 1})
    world.outage = lambda now: now < 200
    world.run(Plan(None, True, 5, 1))
    assert 200 <= world.began[0] < 206
    assert world.said[:-1] == ["no broker answers"]


def test_a_wrong_configuration_ends_the_loop() -> None:
    """It would be as wrong the next time."""
    world = World()
    world.fails = {1: ConfigError("alpa")}
    with pytest.raises(ConfigError):
        world.run(Plan(60, False, 1, None))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("6h", 21_600), ("1d", 86_400), ("0.5s", 0.5)]
)
def test_times(text: str, seconds: float) -> None:
    """With a unit or in seconds."""
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "0", "-1s", "6 hours", "nan", "inf", "1w"])
def test_what_is_no_time(text: str) -> None:
    """Is said."""
    with pytest.raises(ValueError, match="is no time: write 90s, 15m, 6h or 1d"):
        seconds_of(text)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(number: signal.Signals) -> None:
    """Wherever it stands; the handlers are as they were before."""
    before = signal.getsignal(number)
    told: list[str] = []
    with ending_cleanly():
        try:
            os.kill(os.getpid(), number)
            told.append("it went on")
        finally:
            told.append("closed")
    assert told == ["closed"]
    assert signal.getsignal(number) is before
