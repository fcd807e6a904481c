"""Plain users by the compiled kernel (`streamer.factors.kernel`), where numba is installed; it is optional.

`Compiled.refresh` gives what it refreshed and names the users that it left alone; `streamer.steps.refresh` takes those.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.layouts import size_classes
from schemas.outcomes import Outcome, Reason
from streamer.steps.fold import Columns, Index
from streamer.steps.items import Items
from streamer.steps.refresh import Generation, Refreshed

_CONFIDENCES = ("log", "linear", "raw")


def available() -> bool:
    """Is there a compiler, and a machine whose bytes lie as the rows' do?"""
    return sys.byteorder == "little" and importlib.util.find_spec("numba") is not None


def compiled(items: Items, generation: Generation) -> Compiled | None:
    """The compiled path for a generation, None where it does not serve: no compiler, caps, or the exact solver."""
    policy = generation.policy
    if generation.solver != "cg" or policy.cap_item_strength or policy.cap_user_events_per_day or not available():
        return None
    return Compiled(items, generation)


class Compiled:
    """Refreshes plain users. Making the first one compiles, which takes long once and is kept on disk."""

    def __init__(self, items: Items, generation: Generation) -> None:
        from streamer.factors import kernel  # noqa: PLC0415  numba is optional, and compiling takes its time

        self._kernel: Any = kernel
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
        )
        self._real = (policy.alpha, policy.norm_cap, generation.tolerance)
        self._classes = np.array(size_classes(shape), np.int64)
        self._largest = 64 + 4 * shape.dimension + 8 * shape.epochs + 20 * shape.history + 16 * shape.keys
        self._none = np.zeros((0, shape.dimension), np.float32)
        # Fresh memory is faulted in page by page: the rows are written to the same place every time.
        self._out = np.zeros(0, np.uint8)

    def refresh(
        self, columns: Columns, rows: Sequence[bytes | None], strangers: Sequence[int]
    ) -> tuple[Refreshed, Index]:
        """Refresh the plain users; also returns the users who are not plain, ascending."""
        kernel, space, users, events = self._kernel, self._space, len(rows), len(columns)
        lengths = np.array([kernel.NO_ROW if row is None else len(row) for row in rows], np.int64)
        lengths[list(strangers)] = kernel.STRANGER
        data = np.frombuffer(b"".join([row for row in rows if row is not None]) or b"\0", np.uint8)
        if len(self._out) < users * self._largest:
            self._out = np.zeros(users * self._largest, np.uint8)
        vectors = np.empty((users, space.dimension), np.float32)
        norms, numbers = np.empty(users), np.empty((users, kernel.NUMBERS), np.int64)
        state, outcome = np.zeros(users, np.uint8), np.zeros(events, np.uint8)
        confidence, facts = np.empty(events), np.zeros(4)
        remainder = space.remainder()
        touched = kernel.refresh(
            self._whole,
            self._real,
            self._classes,
            self._average,
            np.ascontiguousarray(self._items.epochs, np.int64).view(np.uint8),
            *space.tables(),
            self._none if remainder is None else remainder,
            data,
            lengths,
            columns.packed,
            columns.weight,
            self._out,
            vectors,
            norms,
            numbers,
            state,
            outcome,
            confidence,
            facts,
        )
        return (
            self._result(columns, vectors[:touched], norms[:touched], numbers[:touched], outcome, confidence, facts),
            np.flatnonzero(state == kernel.NOT_PLAIN),
        )

    def _result(
        self,
        columns: Columns,
        vectors: npt.NDArray[np.float32],
        norms: npt.NDArray[np.float64],
        numbers: npt.NDArray[np.int64],
        outcome: npt.NDArray[np.uint8],
        confidence: npt.NDArray[np.float64],
        facts: npt.NDArray[np.float64],
    ) -> Refreshed:
        kernel = self._kernel
        said = numbers.T.tolist()
        ends = [0, *said[kernel.N_END]]
        data = self._out[: ends[-1]].tobytes()
        place = np.zeros(int(columns.user.max()) + 1, np.intp)
        place[numbers[:, kernel.N_USER]] = np.arange(len(numbers))
        applied = np.flatnonzero(outcome == kernel.APPLIED)
        known, cold, steps, residual = facts.tolist()
        counts, letters = self._outcomes(columns, outcome)
        return Refreshed(
            users=numbers[:, kernel.N_USER],
            vectors=vectors,
            norms=norms,
            version=said[kernel.N_VERSION],
            events=said[kernel.N_EVENTS],
            event_time=said[kernel.N_EVENT_TIME],
            source_next=said[kernel.N_SOURCE_NEXT],
            newest=said[kernel.N_NEWEST],
            average=said[kernel.N_AVERAGE],
            row=[data[start:end] for start, end in pairwise(ends)],
            applied=applied,
            confidence=confidence[applied],
            owner=place[columns.user[applied]],
            outcomes=counts,
            dead_letters=letters,
            facts={
                "nonfinite": 0.0,
                "cold_start": cold,
                "users": float(len(numbers)),
                "matrix_entries": known,
                "solve_residual": residual**0.5,
                "solve_iterations": steps,
                "solve_fallbacks": 0.0,
            },
        )

    def _outcomes(
        self, columns: Columns, outcome: npt.NDArray[np.uint8]
    ) -> tuple[Counter[tuple[Outcome, Reason | None]], list[tuple[Reason | Outcome, int]]]:
        """The count of each outcome, and the conflicts as dead letters."""
        kernel = self._kernel
        names: dict[int, tuple[Outcome, Reason | None]] = {
            kernel.APPLIED: (Outcome.APPLIED, None),
            kernel.DUPLICATE: (Outcome.DUPLICATE, None),
            kernel.CONFLICT: (Outcome.CONFLICT, None),
            kernel.OUTSIDE_WINDOW: (Outcome.FILTERED, Reason.OUTSIDE_WINDOW),
            kernel.LATE: (Outcome.LATE, None),
        }
        counts = np.bincount(outcome, minlength=kernel.OTHER + 1).tolist()
        letters: list[tuple[Reason | Outcome, int]] = []
        if counts[kernel.CONFLICT]:
            positions = columns.position[outcome == kernel.CONFLICT].tolist()
            letters = [(Outcome.CONFLICT, position) for position in positions]
        return Counter({name: counts[code] for code, name in names.items() if counts[code]}), letters
