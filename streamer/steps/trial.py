"""The verdict on a generation that is tried on some users, beside the one that serves the others.

    promote   recall >= (1 - margin) * recall of the served one, and norms within a factor of each other
    abandon   otherwise

both once either has been judged on enough events (`streamer.steps.prequential`). The users are drawn by hash, so those
of one worker are a fair sample of all. With n events the standard error of a recall r is sqrt(r (1 - r) / n): at the
default of 1,000 events and a recall of 0.2 that is 0.013, two thirds of the default margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What is to become of it."""

    PROMOTE = "promote"
    ABANDON = "abandon"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of one generation: events judged, items foretold among the first k, and the mean norm of its users' vectors."""

    judged: int
    hits: int
    norm: float

    @property
    def recall(self) -> float:
        """Hits by events."""
        return self.hits / self.judged if self.judged else 0.0


def verdict(
    served: Evidence, trial: Evidence, *, min_events: int, margin: float, max_norm_ratio: float
) -> Verdict | None:
    """None as long as there is too little to go by."""
    if min(served.judged, trial.judged) < min_events:
        return None
    near = trial.norm <= max_norm_ratio * served.norm and served.norm <= max_norm_ratio * trial.norm
    return Verdict.PROMOTE if near and trial.recall >= (1.0 - margin) * served.recall else Verdict.ABANDON
