"""Two workers under steady load while things happen to them: killed, stopped, frozen past their session, wiped.

Every choice comes from one seed. A fault counts only if it landed: its worker was processing when it struck.
"""

from __future__ import annotations

import random
import shutil
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.observer import Observer
from tests.chaos.processes import WorkerProcess
from tests.chaos.scenarios import finish
from tests.chaos.world import World
from tests.oracle.report import Report

NAMES = ("a", "b")
_SESSION_SECONDS = 6.0
# Enough for a first start ever, which compiles the solver.
_READY_SECONDS = 120.0


@dataclass(slots=True)
class Outcome:
    """What a run showed.

    Attributes:
        resumed: seconds from each measured SIGKILL until every partition of the killed worker commits again.
        disturbed: the longest seconds without a commit of one of the other worker's partitions meanwhile.
    """

    report: Report
    faults: Counter[str] = field(default_factory=Counter)
    resumed: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)
    events: int = 0
    transactions: int = 0

    def __str__(self) -> str:
        def spread(seconds: list[float]) -> str:
            if not seconds:
                return "not measured"
            return f"p50 {statistics.median(seconds):.2f} s, max {max(seconds):.2f} s of {len(seconds)}"

        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        return (
            f"{self.events} events, {self.transactions} transactions; faults landed: {faults or 'none'}\n"
            f"from SIGKILL to the last of its partitions committing again: {spread(self.resumed)}\n"
            f"longest pause of the other worker's partitions meanwhile: {spread(self.disturbed)}"
        )


class Churn:
    """One run: ``measure`` restarts, then ``disturb`` for a time, then ``settle``."""

    def __init__(self, world: World, observer: Observer, *, seed: int, rate: int) -> None:
        self._world, self._observer, self._rate = world, observer, rate
        self._random = random.Random(seed)
        self._workers: dict[str, WorkerProcess] = {}
        self._wake: dict[str, float] = {}
        self._faults: Counter[str] = Counter()
        self._resumed: list[float] = []
        self._disturbed: list[float] = []
        self._load = Load(world, rate)
        self._began = time.monotonic()

    def run(self, *, restarts: int, seconds: float) -> Outcome:
        """All of it; raises if the system does not come to rest."""
        for name in NAMES:
            self._start(name)
        with self._load:
            self._world.wait_for(self._balanced, _READY_SECONDS, lambda: f"no balance: {self._world.owners()}")
            time.sleep(1.0)
            for turn in range(restarts):
                self._measure(NAMES[turn % 2])
            self._disturb(time.monotonic() + seconds)
        self._settle()
        report = finish(self._world)
        return Outcome(
            report,
            self._faults,
            self._resumed,
            self._disturbed,
            len(self._world.acked),
            self._observer.transactions(),
        )

    # --- pieces -------------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        """A line of the run's story; pytest shows it when the test fails."""
        print(f"{time.monotonic() - self._began:6.1f} s  {text}")

    def _start(self, name: str) -> None:
        self._workers[name] = self._world.start(name)

    def _balanced(self) -> bool:
        owners = self._world.owners()
        return all(owners.get(name) for name in NAMES) and all(
            self._observer.longest_gap(number, time.monotonic() - 1.0, time.monotonic()) < 0.9
            for number in range(self._world.partitions)
        )

    def _measure(self, name: str) -> None:
        """Kill one worker, start it again at once, and time both workers' partitions."""
        owners = self._world.owners()
        mine, others = owners[name], [number for other in NAMES if other != name for number in owners[other]]
        killed, wall = time.monotonic(), time.time()
        self._workers[name].kill()
        self._start(name)
        self._faults["SIGKILL"] += 1
        self._say(f"timed SIGKILL of {name}")

        def resumed() -> list[float]:
            firsts = [self._observer.first_made_after(number, wall) for number in mine]
            return [first.arrived - killed for first in firsts if first is not None]

        self._world.wait_for(lambda: len(resumed()) == len(mine), _READY_SECONDS, lambda: f"{name} never resumed")
        self._resumed.append(max(resumed()))
        time.sleep(0.5)
        gaps = [self._observer.longest_gap(number, killed - 0.5, time.monotonic()) for number in others]
        self._disturbed.append(max(gaps))
        self._world.wait_for(self._balanced, _READY_SECONDS, lambda: f"no balance: {self._world.owners()}")

    def _disturb(self, until: float) -> None:
        faults: list[Callable[[str], None]] = [self._kill, self._terminate, self._wipe, self._freeze]
        while time.monotonic() < until:
            time.sleep(self._random.uniform(0.3, 2.0))
            self._thaw()
            name, fault = self._random.choice(NAMES), self._random.choice(faults)
            # Some faults may strike a worker that is only starting; most must strike one at work.
            may_be_idle = self._random.random() < 0.2
            if name not in self._wake and (may_be_idle or self._world.owners().get(name)):
                fault(name)

    def _landed(self, name: str, fault: str) -> None:
        """A worker that had no partition yet was only starting up: nothing was interrupted."""
        said = fault if self._world.owners().get(name) else f"{fault} while idle"
        self._faults[said] += 1
        self._say(f"{said} of {name}")

    def _kill(self, name: str) -> None:
        self._landed(name, "SIGKILL")
        self._workers[name].kill()
        self._start(name)

    def _terminate(self, name: str) -> None:
        self._landed(name, "SIGTERM")
        code = self._workers[name].stop()
        # Before its handler is there, a starting process dies of the signal as any other would.
        assert code in (0, -signal.SIGTERM), f"{name} ended with {code} after SIGTERM\n{self._world.last_words()}"
        self._start(name)

    def _wipe(self, name: str) -> None:
        self._landed(name, "wiped store")
        self._workers[name].kill()
        shutil.rmtree(self._world.store(name), ignore_errors=True)
        self._start(name)

    def _freeze(self, name: str) -> None:
        self._say(f"freeze of {name}")
        self._workers[name].signal(signal.SIGSTOP)
        self._wake[name] = time.monotonic() + _SESSION_SECONDS + self._random.uniform(1.0, 3.0)

    def _thaw(self, everybody: bool = False) -> None:
        for name in [name for name, at in self._wake.items() if everybody or time.monotonic() >= at]:
            del self._wake[name]
            # Whoever still is the owner was only slow; a zombie wakes up to find its partitions in other hands.
            said = "stall" if self._world.owners().get(name) else "zombie"
            self._faults[said] += 1
            self._say(f"{said} {name} wakes")
            self._workers[name].signal(signal.SIGCONT)

    def _settle(self) -> None:
        """No more faults and no more events: everything that was sent must be accounted for."""
        self._thaw(everybody=True)
        self._world.wait_caught_up(90)


class Load:
    """Sends events at a steady rate from a thread of its own."""

    def __init__(self, world: World, rate: int) -> None:
        self._world, self._rate = world, rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, name="load", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._world.send(0)

    def _send(self) -> None:
        tick, sent, started = 0.02, 0, time.monotonic()
        while not self._stop.wait(tick):
            due = int((time.monotonic() - started) * self._rate)
            for event in self._world.events.take(due - sent):
                self._world.send_soon(event)
            sent = due
