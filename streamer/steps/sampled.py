"""What a batch hands to the judge: its sampled events, each with what was known of its user before it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]


def _none() -> IntArray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Trials:
    """S events on known items that are new to their users, before they were learnt; items as numbers of the space.

    item (S,); vector (S, k) the user's, and target (S, k) the item's, as they were; history (S, H), -1 for an item that
    the space does not know, with strength, time (ms) and whether the slot is used. events (S,) applied so far; key_time
    (S, R) seconds of those whose keys are kept, 0 for none; suppressing (S,) those who ever suppressed an item.
    """

    item: IntArray
    vector: Float32Array
    target: Float32Array
    history: npt.NDArray[np.int32]
    strength: Float32Array
    time: IntArray
    used: npt.NDArray[np.bool_]
    events: IntArray
    key_time: npt.NDArray[np.uint32]
    suppressing: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True, slots=True)
class Sampled:
    """The sample of one batch of one generation.

    applied: (A,) the known items of all applied events, sampled or not; types: event types of the sampled events;
    items: (P,) the items of those of them that were applied, -1 for an unknown one; trials: None where none is left.
    """

    model_version: str
    applied: IntArray
    types: list[str] = field(default_factory=list)
    items: IntArray = field(default_factory=_none)
    trials: Trials | None = None
