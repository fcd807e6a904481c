"""Two generations at once: a share of the users, by hash, on the one that is tried, everybody else on the served one.

A user is of one of them at any time: rows, vectors and signals bear the number of that one. Events are split by user
before either step sees them, and what both did is committed together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

from streamer.steps.effects import Effects
from streamer.steps.user import UserBatch, UserStep

_SALT = b"canary\0"


def tried(key: bytes, fraction: float) -> bool:
    """Is this user among those on whom a generation is tried? The same users for every generation."""
    return xxh3_64_intdigest(_SALT + key) < fraction * 2.0**64


@dataclass(slots=True)
class CanaryBatch:
    """One batch a step, and their users, those of the served generation first."""

    served: UserBatch
    trial: UserBatch
    ahead: bool = False

    @property
    def keys(self) -> list[bytes]:
        """Row keys, each once."""
        return [*self.served.keys, *self.trial.keys]


class CanaryStep:
    """See the module docstring. It is itself a generation: a partition cuts over to it, and away from it."""

    founding = False

    def __init__(self, served: UserStep, trial: UserStep, fraction: float) -> None:
        self.served, self.trial, self.fraction = served, trial, fraction
        self.generation = served.generation ^ trial.generation

    def read(self, records: Sequence[Any], partition: int) -> CanaryBatch:
        """Split by user; a record without a key is nobody's and goes the usual way."""
        chosen = [record.key is not None and tried(record.key, self.fraction) for record in records]
        return CanaryBatch(
            self.served.read([one for one, trial in zip(records, chosen, strict=True) if not trial], partition),
            self.trial.read([one for one, trial in zip(records, chosen, strict=True) if trial], partition),
        )

    def apply(self, batch: CanaryBatch, rows: Sequence[bytes | None]) -> Effects:
        """Both, each on its own users."""
        seam = len(batch.served.keys)
        return merged(self.served.apply(batch.served, rows[:seam]), self.trial.apply(batch.trial, rows[seam:]))

    def reuse(self, effects: Effects) -> None:
        """The memory of both goes to the one that writes more."""
        self.served.reuse(effects)

    def give_up(self, batch: CanaryBatch) -> None:
        """Events have no generation."""

    def stale(self, key: bytes, row: bytes | None) -> bool:
        """Is it a row of another generation than its user's?"""
        return self._of(key).stale(key, row)

    def unwritten(self, partition: int) -> list[bytes]:
        """None: a user without a row is nobody yet."""
        return []

    def renew(self, keys: Sequence[bytes], rows: Sequence[bytes | None], partition: int) -> Effects:
        """Bring users who are tried on into the trial, and others back from it."""
        done = Effects()
        for step in (self.served, self.trial):
            mine = [at for at, key in enumerate(keys) if self._of(key) is step]
            if mine:
                done = merged(done, step.renew([keys[at] for at in mine], [rows[at] for at in mine], partition))
        return done

    def _of(self, key: bytes) -> UserStep:
        return self.trial if tried(key, self.fraction) else self.served


def merged(one: Effects, other: Effects) -> Effects:
    """What both want done, as one transaction. The rows that are written already stay in front of the others."""
    written = [sum(part.count for part in effects.changelog) for effects in (one, other)]
    out = Effects(
        rows=[
            *one.rows[: written[0]],
            *other.rows[: written[1]],
            *one.rows[written[0] :],
            *other.rows[written[1] :],
        ],
        changelog=[*one.changelog, *other.changelog],
        memory=[*one.memory, *other.memory],
        outcomes=one.outcomes + other.outcomes,
        sampled=[*one.sampled, *other.sampled],
    )
    for effects in (one, other):
        out.add_facts(effects.facts)
        for target, sends in effects.sends.items():
            out.sends.setdefault(target, []).extend(sends)
        for target, encoded in effects.encoded.items():
            out.encoded.setdefault(target, []).extend(encoded)
    norms = [effects.norms for effects in (one, other) if effects.norms is not None]
    out.norms = np.concatenate(norms) if norms else None
    return out
