"""What was judged: averages that fade of the generation that is served, and plain counts by generation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from streamer.steps.judge import FloatArray, Judged

_GENERATIONS = 8


class Fading:
    """A mean over about the last ``memory`` values, older ones counting less and less; NaN before the first."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._sum = self._weight = 0.0

    def add(self, values: FloatArray) -> None:
        """Take (n,) values at once, n > 0; their order among themselves is given up."""
        one = math.exp(-1 / self._memory)
        fade = one ** len(values)
        weight = (1 - fade) / (1 - one)
        self._sum = self._sum * fade + float(values.mean()) * weight
        self._weight = self._weight * fade + weight

    @property
    def mean(self) -> float:
        """As things stand."""
        return self._sum / self._weight if self._weight else math.nan


@dataclass(frozen=True, slots=True)
class Standing:
    """Recall@k and NDCG@k of a model, lately."""

    recall: float
    ndcg: float


class Prequential:
    """Recall@k and NDCG@k of test-then-learn; positions are those of `streamer.steps.judge`.

    `report` may be called from any thread, everything else from one.
    """

    def __init__(self, k: int, memory: int) -> None:
        self._k, self._memory = k, memory
        self._served = ""
        self._recall: dict[tuple[str, str], Fading] = {}
        self._ndcg: dict[tuple[str, str], Fading] = {}
        self._generations: dict[str, tuple[int, int]] = {}
        self._norms: dict[str, float] = {}

    def serve(self, model_version: str) -> None:
        """Have the averages be of this generation, and begin anew."""
        self._served, self._recall, self._ndcg = model_version, {}, {}

    def report(self) -> dict[str, tuple[int, int]]:
        """By model version how many events were judged and how many of them the live factors foretold.

        Since this process started, of the last eight generations.
        """
        return dict(self._generations)

    def norm(self, model_version: str) -> float:
        """The mean norm of the live user vectors judged of a generation; NaN where none was."""
        judged, _ = self._generations.get(model_version, (0, 0))
        return self._norms.get(model_version, 0.0) / judged if judged else math.nan

    def add(self, model_version: str, judged: Judged) -> FloatArray:
        """Count what a judge found of one generation; returns the live gains (S,), 1/log2(position + 2) or 0.

        The averages are over the comparable events, for all models alike; the counts are over all.
        """
        gains = self._gains(judged, "live")
        if model_version == self._served:
            parts = {"": judged.comparable}
            parts |= {"known": judged.comparable & judged.known, "new": judged.comparable & ~judged.known}
            for model in judged.ranks:
                gain = self._gains(judged, model)
                for users, part in parts.items():
                    if part.any():
                        self._of(self._recall, model, users).add((gain[part] > 0).astype(np.float64))
                        self._of(self._ndcg, model, users).add(gain[part])
            self._of(self._recall, "live", "all").add((gains > 0).astype(np.float64))
        hits = int(np.count_nonzero(gains))
        judged_before, hits_before = self._generations.pop(model_version, (0, 0))
        self._norms[model_version] = self._norms.get(model_version, 0.0) + float(judged.norms.sum())
        counts = {**self._generations, model_version: (judged_before + len(gains), hits_before + hits)}
        self._generations = dict(list(counts.items())[-_GENERATIONS:])
        return gains

    def standing(self, model: str, users: str = "") -> Standing:
        """Of a model; ``users`` known or new, of both without it, or all. NaN where none was judged."""
        nothing = Fading(self._memory)
        return Standing(self._recall.get((model, users), nothing).mean, self._ndcg.get((model, users), nothing).mean)

    def _gains(self, judged: Judged, model: str) -> FloatArray:
        ranks = judged.ranks[model]
        return np.where(ranks < self._k, 1 / np.log2(ranks + 2), 0.0)

    def _of(self, averages: dict[tuple[str, str], Fading], model: str, users: str) -> Fading:
        return averages.setdefault((model, users), Fading(self._memory))
