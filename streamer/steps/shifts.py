"""Has the stream moved away from what the generation was trained on? Four features of the sampled events.

event_types      PSI of the types, against the training data's
item_popularity  PSI of the most popular items of the training data and all others
scores           PSI of the live scores of the events' items, against the first window
loss             1 - the live gain (NDCG) of each judged event: has its mean risen (ADWIN)?

A generation whose manifest has no reference is compared with the first window after the start; items then share
buckets by their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.records import TYPES, Manifest, Reference
from streamer.factors.drift import Adwin, NumberShift, Shift
from streamer.steps.items import Items
from streamer.steps.sampled import IntArray

FEATURES = ("event_types", "item_popularity", "scores")
"""Those with a PSI."""

_TOP = 20
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bounds:
    """When something counts as a shift; see `[quality]` in the configuration."""

    window: int
    psi_bound: float
    patience: int
    false_alarms: float


class Shifts:
    """The detectors of one generation."""

    def __init__(self, manifest: Manifest, items: Items, bounds: Bounds) -> None:
        reference = manifest.reference if isinstance(manifest.reference, Reference) else None
        self._types = {name: number for number, name in enumerate(TYPES)}
        self._top: dict[int, int] | None = None
        types = popularity = None
        if reference is not None:
            types = np.array([reference.event_types.get(name, 0) for name in TYPES], np.int64)
            popular = list(reference.popular_items.items())[:_TOP]
            self._top = {items.space.index_of(item_id): place for place, (item_id, _) in enumerate(popular)}
            counts = [count for _, count in popular] + [0] * (_TOP - len(popular))
            popularity = np.array([*counts, max(reference.item_events - sum(counts), 0)], np.int64)
        self._event_types = _shift(len(TYPES), bounds, types)
        self._item_popularity = _shift(_TOP + 1, bounds, popularity)
        self._scores = NumberShift(window=bounds.window, bound=bounds.psi_bound, patience=bounds.patience)
        self._adwin, self._window = Adwin(bounds.false_alarms), bounds.window
        self._since_rise, self._rise = bounds.window, 0.0

    def events(self, types: list[str], items: IntArray) -> None:
        """Sampled events: their types, and of the applied ones (P,) the items, -1 for one that is unknown."""
        for name in types:
            self._event_types.add(self._types[name])
        for item in items.tolist():
            self._item_popularity.add(self._bucket(item))

    def judged(self, scores: FloatArray, gains: FloatArray) -> None:
        """Judged events: live scores and gains, both (S,)."""
        for score, gain in zip(scores.tolist(), gains.tolist(), strict=True):
            self._scores.add(score)
            self._since_rise += 1
            if (rise := self._adwin.add(1.0 - gain)) > 0:
                self._rise, self._since_rise = rise, 0

    def states(self) -> Iterator[tuple[str, float, bool]]:
        """Each feature with its value and whether it is an alarm.

        A rise of the loss stays one for a window: nothing tells when it is over but that nothing rose any more.
        """
        shifts: tuple[Shift | NumberShift, ...] = (self._event_types, self._item_popularity, self._scores)
        for name, shift in zip(FEATURES, shifts, strict=True):
            yield name, shift.value, shift.alarm
        yield "loss", self._rise, self._since_rise < self._window

    def _bucket(self, item: int) -> int:
        if self._top is not None:
            return self._top.get(item, _TOP) if item >= 0 else _TOP
        return item % _TOP if item >= 0 else _TOP


def _shift(buckets: int, bounds: Bounds, reference: IntArray | None) -> Shift:
    return Shift(buckets, window=bounds.window, bound=bounds.psi_bound, patience=bounds.patience, reference=reference)
