"""The worker's own view of itself: plain state, set by the engine, read by the HTTP port from any thread.

Alive means the event loop turns; nothing outside the worker counts, so that a broker's outage restarts no one. Ready
means that events are processed: a model is loaded, every partition held is restored and open, and a broker answers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, cast, get_args

PartitionState = Literal["waiting", "fencing", "restoring", "ready", "paused"]
_STATES = get_args(PartitionState)
_RELEASED = "released"

LOOP_STALL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Yes or no, why not, and the share of the work of getting there that is done, in percent."""

    good: bool
    reason: str = ""
    percent: float = 100.0


@dataclass(slots=True)
class _Partition:
    state: PartitionState
    share: float = 0.0


class Health:
    """See the module docstring; every method may be called from any thread.

    Args:
        roles: the worker's roles; each must hold a partition before the worker is ready.
        clock: monotonic seconds.
    """

    def __init__(self, roles: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._roles, self._clock = tuple(roles), clock
        self._lock = Lock()
        self._tick = clock()
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._assigned: set[str] = set()
        self._obstacle, self._obstacle_percent = "starting", 0.0
        self._model_version: str | None = None
        self._refused: list[str] = []
        self._away = ""

    def tick(self) -> None:
        """The event loop has come round."""
        with self._lock:
            self._tick = self._clock()

    def wait(self, reason: str, percent: float = 0.0) -> None:
        """Not ready as a whole, for a reason in words."""
        with self._lock:
            self._obstacle, self._obstacle_percent = reason, percent

    def model(self, model_version: str) -> None:
        """The model is loaded; from here on only partitions can stand in the way."""
        with self._lock:
            self._model_version = model_version
            self._obstacle, self._obstacle_percent = "", 0.0

    def refuse(self, model_version: str) -> None:
        """A generation was announced and can't be served: the one before goes on."""
        with self._lock:
            self._refused.append(model_version)

    def broker(self, away: str) -> None:
        """Which broker does not answer, and since when, in words; empty when one does."""
        with self._lock:
            self._away = away

    def partition(self, role: str, number: int, state: str, share: float = 0.0) -> None:
        """One partition's state, and the share restored; "released" forgets it."""
        if state != _RELEASED and state not in _STATES:
            raise ValueError(f"{state!r} is no state of a partition: {', '.join(_STATES)} or {_RELEASED}")
        with self._lock:
            self._assigned.add(role)
            if state == _RELEASED:
                self._partitions.pop((role, number), None)
            else:
                known = cast("PartitionState", state)
                self._partitions[role, number] = _Partition(known, share)

    def live(self) -> Verdict:
        """Whether the event loop has come round lately."""
        with self._lock:
            silent = self._clock() - self._tick
        if silent > LOOP_STALL_SECONDS:
            return Verdict(False, f"the event loop has not turned for {silent:.0f} s", 0.0)
        return Verdict(True)

    def ready(self) -> Verdict:
        """Whether events are processed, and if not, why."""
        with self._lock:
            percent = self._percent()
            if self._away:
                return Verdict(False, self._away, percent)
            if self._obstacle:
                return Verdict(False, self._obstacle, self._obstacle_percent)
            unassigned = [role for role in self._roles if role not in self._assigned]
            if unassigned:
                return Verdict(False, f"{_listed(unassigned)}: waiting for partitions to be assigned", percent)
            held = Counter(part.state for part in self._partitions.values() if part.state != "ready")
            if held:
                words = ", ".join(f"{held[state]} {state}" for state in _STATES if held[state])
                return Verdict(False, f"of {len(self._partitions)} partitions: {words}", percent)
        return Verdict(True)

    def restored(self) -> float:
        """The share of the local state that is restored, 0 to 1."""
        with self._lock:
            return self._percent() / 100.0

    def describe(self) -> dict[str, Any]:
        """Everything, for `/info`."""
        with self._lock:
            partitions: dict[str, dict[str, Any]] = {role: {} for role in self._roles}
            for (role, number), part in sorted(self._partitions.items()):
                restoring = {"percent": round(100 * part.share, 1)} if part.state == "restoring" else {}
                partitions.setdefault(role, {})[str(number)] = {"state": part.state, **restoring}
            return {
                "roles": list(self._roles),
                "model_version": self._model_version,
                "refused_models": list(self._refused),
                "partitions": partitions,
            }

    def _percent(self) -> float:
        done = {"ready": 1.0, "paused": 1.0}
        shares = [
            part.share if part.state == "restoring" else done.get(part.state, 0.0) for part in self._partitions.values()
        ]
        return round(100.0 * sum(shares) / len(shares), 1) if shares else 0.0


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)
