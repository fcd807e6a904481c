"""What a step wants done; the engine does it, in one transaction and one store write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from schemas.outcomes import Outcome, Reason
from streamer.steps.sampled import Sampled

Headers = list[tuple[str, bytes]]
Outgoing = tuple[bytes | None, bytes | None, int | None, Headers]
"""Key, value, timestamp (ms; None = the time of sending) and headers of a record to send."""

Target = tuple[str, int]
"""Topic and partition."""


_HIGHEST = frozenset({"solve_residual", "solve_iterations", "top_item", "parity_error"})
"""Facts of which a batch has the highest, not the sum."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Records as they lie in a Kafka record batch of version 2, all with the time of sending (`streamer.steps.wire`).

    data: bytes, `wire.HEADER` free ones first, then one record after another; count: how many records.
    """

    data: memoryview
    count: int


@dataclass(slots=True)
class Effects:
    """All consequences of one batch of one partition.

    rows: rows to put; sends: records by target, beside the rows' own; encoded: the same, written already;
    changelog: the first of the rows as records, where a step has written them already;
    memory: what the encoded records lie in, for `Step.reuse`;
    outcomes: one count a record delivered, they add up to the batch; facts: numbers for the metrics, see
    `streamer.telemetry.metrics`; sampled: for the judge.
    """

    rows: list[tuple[bytes, bytes]] = field(default_factory=list)
    sends: dict[Target, list[Outgoing]] = field(default_factory=dict)
    encoded: dict[Target, list[Encoded]] = field(default_factory=dict)
    changelog: list[Encoded] = field(default_factory=list)
    memory: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    outcomes: Counter[tuple[Outcome, Reason | None]] = field(default_factory=Counter)
    facts: dict[str, float] = field(default_factory=dict)
    norms: npt.NDArray[np.floating[Any]] | None = None
    sampled: list[Sampled] = field(default_factory=list)

    def add_facts(self, more: Mapping[str, float]) -> None:
        """Facts of further users of the same batch: counts add up, of a few the highest counts."""
        for name, fact in more.items():
            held = self.facts.get(name, 0.0)
            self.facts[name] = max(held, fact) if name in _HIGHEST else held + fact

    def send(self, target: Target, record: Outgoing) -> None:
        """Add one record for a target."""
        self.sends.setdefault(target, []).append(record)


class Batch(Protocol):
    """What reading a batch's records gives: the keys whose rows are needed to apply it."""

    @property
    def keys(self) -> list[bytes]:
        """Row keys, each once."""

    @property
    def ahead(self) -> bool:
        """Does it hold records of a generation that this worker is still to cut over to?"""


class Step(Protocol):
    """One role's work on a batch: pure, so that the same records and rows give the same effects.

    generation: `generation_id` of what it serves; founding: was that generation published straight into the topics, so
    that no partition has to cut over to it?
    """

    @property
    def generation(self) -> int:
        """See above."""

    @property
    def founding(self) -> bool:
        """See above."""

    def read(self, records: Sequence[Any], partition: int) -> Any:
        """Decode and judge records, as far as that needs no row."""

    def apply(self, batch: Any, rows: Sequence[bytes | None]) -> Effects:
        """Apply a batch to the rows of its keys."""

    def give_up(self, batch: Any) -> None:
        """What a batch is ahead of has been waited for long enough, unless it is known to come."""

    def reuse(self, effects: Effects) -> None:
        """Take back the memory of effects that nobody will look at again."""

    def stale(self, key: bytes, row: bytes | None) -> bool:
        """Is this row to be renewed: of another generation, or missing though the generation has it?"""

    def unwritten(self, partition: int) -> list[bytes]:
        """Keys of a partition that must have a row after a cut, whether or not the store has one."""

    def renew(self, keys: Sequence[bytes], rows: Sequence[bytes | None], partition: int) -> Effects:
        """Bring stale rows into this generation, and publish them."""
