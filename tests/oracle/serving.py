"""What must be published of a row: its vector, the session's share, and a prior for users of few events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.oracle.hashes import segment_hash
from tests.oracle.rowbytes import Entry, UserRow
from tests.oracle.rules import Rules
from tests.oracle.solve import ItemMatrix, counting, solve_entries

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Expected:
    """vector, session: (k,), the latter None where there is none; basis and shares as in the record."""

    vector: F64
    basis: str
    session: F64 | None
    shares: dict[str, object]


def expected(row: UserRow, items: ItemMatrix, rules: Rules) -> Expected:
    """From the row's own vector, so that an error in that is told once."""
    vector, session, entries = row.vector.astype(np.float64), None, counting(row, rules)
    if rules.session_weight:
        members = session_entries(entries, rules)
        if any(entry.item in items.row_of for entry in members):
            session = solve_entries(members, row, items, rules).astype(np.float64)
            vector = (1 - rules.session_weight) * vector + rules.session_weight * session
    known = any(entry.item in items.row_of for entry in entries)
    share = 0.0
    if known:
        share = min(1.0, row.events / rules.blend_events) if rules.blend_events else 1.0
    prior, name = _prior(row, rules)
    basis = "history" if share == 1 else "blend" if share > 0 else name
    shares: dict[str, object] = {"prior": name, "history_weight": share} if basis == "blend" else {}
    if session is not None:
        shares["session_weight"] = rules.session_weight
    return Expected(share * vector + (1 - share) * prior, basis, session, shares)


def session_entries(history: list[Entry], rules: Rules) -> list[Entry]:
    """The newest entries, up to the first gap, in the order of the history."""
    found: list[Entry] = []
    for entry in sorted(history, key=lambda one: (one.time, one.item), reverse=True):
        if len(found) == rules.session_entries or (found and found[-1].time - entry.time > rules.session_gap_ms):
            break
        found.append(entry)
    return [entry for entry in history if entry in found]


def _prior(row: UserRow, rules: Rules) -> tuple[F64, str]:
    for name, vector in rules.segments.items():
        if row.segment and segment_hash(name) == row.segment:
            return np.array(vector, np.float32).astype(np.float64), "segment"
    average = np.array(rules.average_user, np.float32).astype(np.float64)
    if not average.any() and rules.popularity_user is not None:
        return np.array(rules.popularity_user, np.float32).astype(np.float64), "popularity"
    return average, "average"
