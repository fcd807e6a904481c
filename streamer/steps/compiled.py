"""Plain users by the compiled kernel (`streamer.factors.kernel`), where numba is installed; it is optional.

`Compiled.refresh` gives what it refreshed and names the users that it left alone; `streamer.steps.refresh` takes those.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.layouts import size_classes
from schemas.outcomes import Outcome, Reason
from streamer.factors.kernel import rules
from streamer.factors.solve import MAX_PEAK, MAX_SHRINK, MAX_STEPS, MAX_TRACE
from streamer.steps.fold import Columns, Index
from streamer.steps.items import Items
from streamer.steps.refresh import Generation

_KERNEL = "streamer.factors.kernel.refresh"
_PUBLISHING = "streamer.steps.kernel.publish"
_CONFIDENCES = ("log", "linear", "raw")
_NOBODY: Index = np.zeros(0, np.intp)


def available() -> bool:
    """Is there a compiler, and a machine whose bytes lie as the rows' do?"""
    return sys.byteorder == "little" and importlib.util.find_spec("numba") is not None


def warm() -> bool:
    """Compile the kernel or load it from the cache, where there is a compiler: up to half a minute once, then 0.5 s."""
    if available():
        importlib.import_module(_KERNEL)
        importlib.import_module(_PUBLISHING)
    return available()


def compiled(items: Items, generation: Generation) -> Compiled | None:
    """The compiled path for a generation, None where it does not serve.

    That is: no compiler, caps, pairs, the exact solver, ratings, or more than the long-term vector to publish
    (`factors.serving`).
    """
    policy = generation.policy
    if generation.priors is not None:
        return None
    capped = policy.cap_item_strength or policy.cap_user_events_per_day
    if policy.feedback == "explicit" or policy.sgd_objective == "bpr":
        return None
    if generation.solver != "cg" or capped or not available():
        return None
    return Compiled(items, generation)


@dataclass(frozen=True, slots=True)
class Plain:
    """What became of plain users and their events; as `streamer.steps.refresh.Refreshed`, but as arrays.

    numbers (T, NUMBERS), vectors (T, k), norms (T,) of the touched users, ascending; rows: their new rows, end to end;
    applied, confidence, owner (A,): the applied events; others: users who are not plain, ascending.
    """

    numbers: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]
    norms: npt.NDArray[np.float64]
    rows: npt.NDArray[np.uint8]
    applied: Index
    confidence: npt.NDArray[np.float64]
    owner: Index
    others: Index
    outcomes: Counter[tuple[Outcome, Reason | None]]
    dead_letters: list[tuple[Reason | Outcome, int]]
    facts: dict[str, float]


class Compiled:
    """Refreshes plain users. Making the first one compiles, which takes long once and is kept on disk."""

    def __init__(self, items: Items, generation: Generation) -> None:
        # Not imported above: numba is optional, and compiling takes its time.
        self._refresh: Any = importlib.import_module(_KERNEL).refresh
        self._space, self._items, self._average = items.space, items, generation.average
        policy, shape = generation.policy, generation.shape
        self._whole = (
            shape.dimension,
            shape.history,
            shape.keys,
            shape.epochs,
            policy.half_life_ms,
            policy.keys_window_ms,
            policy.window_ms,
            policy.lateness_ms,
            _CONFIDENCES.index(policy.confidence),
            int(policy.rhs == "c"),
            int(np.uint64(generation.number).astype(np.int64)),
            MAX_STEPS,
        )
        self._real = (
            policy.alpha,
            policy.norm_cap,
            generation.tolerance,
            MAX_PEAK,
            MAX_TRACE,
            MAX_SHRINK,
            policy.recency_entries,
            items.space.rule.base,
            items.space.rule.nu,
            items.space.rule.offset,
            items.space.rule.floor,
        )
        self._classes = np.array(size_classes(shape), np.int64)
        self._largest = 64 + 4 * shape.dimension + 8 * shape.epochs + 20 * shape.history + 16 * shape.keys
        self._none = np.zeros((0, shape.dimension), np.float32)
        self._room = _Room(0, 0, self._largest)
        codes = {
            rules.APPLIED: (Outcome.APPLIED, None),
            rules.DUPLICATE: (Outcome.DUPLICATE, None),
            rules.CONFLICT: (Outcome.CONFLICT, None),
            rules.OUTSIDE_WINDOW: (Outcome.FILTERED, Reason.OUTSIDE_WINDOW),
            rules.LATE: (Outcome.LATE, None),
        }
        self._codes: list[tuple[int, tuple[Outcome, Reason | None]]] = list(codes.items())

    def refresh(self, columns: Columns, rows: Sequence[bytes | None], strangers: Sequence[int]) -> Plain:
        """Refresh the plain users. What is returned lies in memory that the next call writes to again."""
        space, room = self._space, self._room
        if len(rows) > len(room.state) or len(columns) > len(room.outcome):
            self._room = room = _Room(2 * len(rows), 2 * len(columns), self._largest)
        lengths = [rules.NO_ROW if row is None else len(row) for row in rows]
        for user in strangers:
            lengths[user] = rules.STRANGER
        data = b"".join([row for row in rows if row is not None] if None in rows else rows)  # type: ignore[arg-type]
        vectors, norms = np.empty((len(rows), space.dimension), np.float32), np.empty(len(rows))
        remainder = space.remainder()
        touched = self._refresh(
            self._whole,
            self._real,
            self._classes,
            self._average,
            np.frombuffer(self._items.epochs.tobytes(), np.uint8),
            *space.tables(),
            self._none if remainder is None else remainder,
            np.frombuffer(data or b"\0", np.uint8),
            np.array(lengths, np.int64),
            columns.packed,
            columns.weight,
            room.out,
            vectors,
            norms,
            room.numbers,
            room.state,
            room.outcome,
            room.applied,
            room.owner,
            room.confidence,
            room.facts,
        )
        facts = room.facts.tolist()
        others = _NOBODY
        if facts[rules.F_NOT_PLAIN]:
            others = np.flatnonzero(room.state[: len(rows)] == rules.NOT_PLAIN)
        return self._result(columns, vectors[:touched], norms[:touched], facts, others)

    def _result(
        self,
        columns: Columns,
        vectors: npt.NDArray[np.float32],
        norms: npt.NDArray[np.float64],
        facts: list[float],
        others: Index,
    ) -> Plain:
        room = self._room
        numbers = room.numbers[: len(norms)]
        counts = facts[rules.F_APPLIED :]
        applied = int(counts[rules.APPLIED])
        letters: list[tuple[Reason | Outcome, int]] = []
        if counts[rules.CONFLICT]:
            conflicts = np.flatnonzero(room.outcome[: len(columns)] == rules.CONFLICT)
            letters = [(Outcome.CONFLICT, position) for position in columns.position[conflicts].tolist()]
        return Plain(
            numbers=numbers,
            vectors=vectors,
            norms=norms,
            rows=room.out[: int(numbers[-1, rules.N_END]) if len(numbers) else 0],
            applied=room.applied[:applied],
            confidence=room.confidence[:applied],
            owner=room.owner[:applied],
            others=others,
            outcomes=Counter({name: int(counts[code]) for code, name in self._codes if counts[code]}),
            dead_letters=letters,
            facts={
                "nonfinite": 0.0,
                "cold_start": facts[rules.F_COLD],
                "users": float(len(norms)),
                "matrix_entries": facts[rules.F_KNOWN],
                "solve_residual": facts[rules.F_RESIDUAL] ** 0.5,
                "solve_iterations": facts[rules.F_STEPS],
                "solve_fallbacks": 0.0,
            },
        )


class _Room:
    """Where the kernel writes; kept from batch to batch, since fresh memory is faulted in page by page."""

    def __init__(self, users: int, events: int, largest: int) -> None:
        self.out = np.zeros(users * largest, np.uint8)
        self.numbers = np.zeros((users, rules.NUMBERS), np.int64)
        self.state, self.outcome = np.zeros(users, np.uint8), np.zeros(events, np.uint8)
        self.applied, self.owner = np.zeros(events, np.int64), np.zeros(events, np.int64)
        self.confidence, self.facts = np.zeros(events), np.zeros(rules.FACTS)
