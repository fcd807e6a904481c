"""Retrain by itself: every so often, on the workers' wish, or both; one round after another until told to stop.

A round that fails (gates, data, broker, or an error of the program, which is logged with its stack) is told and the
loop goes on: the generation that is served stays.

A wish counts while no generation was created after it. A round that it led to answers it, whatever came of it: where
the gates said no, the next wish, or the next turn of the clock, tries again with more data.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from bootstrap.broker import read_to_end
from bootstrap.served import served
from schemas.commands import RETRAIN_KEY
from schemas.records import Retrain
from streamer.errors import ConfigError, FactorsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamer.settings import Settings

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 5.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True)
class Plan:
    """When to train, in seconds.

    every: from the start of one round to that of the next, None without a clock; on_drift: also on a wish;
    min_interval: at least so long from one round's start to the next; rounds: end after so many, None for never.
    """

    every: float | None
    on_drift: bool
    min_interval: float
    rounds: int | None


def seconds_of(text: str) -> float:
    """Seconds in "90", "30s", "15m", "6h" or "1d".

    Raises:
        ValueError: something else, or nothing above 0.
    """
    number, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1.0)
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{text!r} is no time: write 90s, 15m, 6h or 1d")
    return seconds


def wish(settings: Settings) -> Retrain | None:
    """The newest wish that no generation has fulfilled.

    Raises:
        BrokerError: the topics cannot be read.
    """
    newest = None
    for record in read_to_end(settings, settings.topic("control"))[0]:
        if record.key == RETRAIN_KEY:
            try:
                newest = None if record.value is None else msgspec.json.decode(record.value, type=Retrain)
            except (msgspec.DecodeError, UnicodeDecodeError):
                # A wish that cannot be read is nobody's: the next one overwrites it.
                newest = None
    if newest is None:
        return None
    created = max((manifest.created_at for manifest in served(settings).manifests.values()), default=0)
    return newest if newest.at > created else None


def repeat(
    plan: Plan,
    train: Callable[[], None],
    wished: Callable[[], Retrain | None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> int:
    """Run rounds until the plan ends; returns the exit code of the last one.

    Raises:
        ConfigError: of the first round that meets one: trying again would not help.
    """
    waiting = _Waiting(plan, wished, clock, sleep, say)
    done, code = 0, 0
    while plan.rounds is None or done < plan.rounds:
        say(f"round {done + 1}: {waiting.reason()}")
        done += 1
        try:
            train()
            code = 0
        except ConfigError:
            raise
        except FactorsError as problem:
            code = problem.exit_code
            say(f"round {done} published nothing: {problem}")
        except Exception as problem:  # noqa: BLE001 - whatever it is, the next round may do without it
            code = FactorsError.exit_code
            say(f"round {done} published nothing: an error of the program: {type(problem).__name__}: {problem}")
            _log.error("round %d of the training failed", done, exc_info=problem)
    return code


class _Waiting:
    """Waits for the next reason to train."""

    def __init__(
        self,
        plan: Plan,
        wished: Callable[[], Retrain | None],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        say: Callable[[str], None],
    ) -> None:
        self._plan, self._wished, self._clock, self._sleep, self._say = plan, wished, clock, sleep, say
        self._started: float | None = None
        self._answered = 0
        self._silent = False

    def reason(self) -> str:
        """Why it is time, in words, once it is; a clock's first round is at once."""
        while True:
            found = self._reason()
            if found is not None:
                self._started = self._clock()
                return found
            self._sleep(self._until_next_look())

    def _reason(self) -> str | None:
        plan, passed = self._plan, self._passed()
        if plan.every is not None and passed >= plan.every:
            return "it is time"
        if not plan.on_drift or passed < plan.min_interval:
            return None
        wish = self._look()
        if wish is None or wish.at <= self._answered:
            return None
        self._answered = wish.at
        return f"{wish.feature} has shifted by {wish.value:.3g} under {wish.model_version}"

    def _passed(self) -> float:
        return float("inf") if self._started is None else self._clock() - self._started

    def _look(self) -> Retrain | None:
        """What is wished; an outage of the broker is told once, and waited for."""
        try:
            found = self._wished()
        except FactorsError as problem:
            if not self._silent:
                self._say(str(problem))
            self._silent = True
            return None
        self._silent = False
        return found

    def _until_next_look(self) -> float:
        """Until the clock says so, or the next wish may come."""
        plan, passed = self._plan, self._passed()
        times = [] if plan.every is None else [plan.every - passed]
        if plan.on_drift:
            times.append(max(plan.min_interval - passed, min(_LOOK_SECONDS, plan.min_interval)))
        return max(min(times), 0.0)


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """SIGTERM and Ctrl-C end the block where it stands: a transaction is aborted, a folder keeps no name."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
