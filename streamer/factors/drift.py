"""Has what comes in changed? Two detectors over numbers that arrive one at a time; both hold a bounded memory.

Population stability index of B buckets, counts a (reference, n of them) and b (found, m of them)::

    PSI = sum (q - p) ln(q / p)        p = (a + 1/2) / (n + B/2),  q = (b + 1/2) / (m + B/2)

Below 0.1 is read as no shift, above 0.25 as a large one (Siddiqi, Credit Risk Scorecards, 2006). Where nothing has
shifted, PSI / (1/n + 1/m) is about chi-squared with B - 1 degrees of freedom (Yurdakul, Statistical properties of
population stability index, 2018): `by_chance` is what small counts reach by themselves.

ADWIN (Bifet and Gavaldà, Learning from time-changing data with adaptive windowing, 2007) keeps the longest window whose
every two parts, of n0 and n1 values, have means that do not differ by more than::

    e = sqrt(2/m s2 ln(2 ln(n) / delta)) + 2/(3m) ln(2 ln(n) / delta)        1/m = 1/n0 + 1/n1, s2 the variance

and drops the older part as soon as one does. The window is kept as sums of 1, 2, 4, ... values, at most five of a size.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_PER_SIZE = 5
_LEAST = 5  # values on either side of a cut
_EVERY = 8  # values between two looks for a cut: looking costs more than adding
_SIGMAS = 4.0


def psi(reference: Counts | FloatArray, found: Counts | FloatArray) -> float:
    """The population stability index of two histograms (B,) over the same buckets."""
    p, q = (counts + 0.5 for counts in (reference, found))
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((q - p) * np.log(q / p)))


def by_chance(reference: int, found: int, buckets: int) -> float:
    """A PSI that is hardly ever reached where nothing has shifted: the mean and four standard deviations."""
    freedom = buckets - 1
    return (1 / max(reference, 1) + 1 / max(found, 1)) * (freedom + _SIGMAS * math.sqrt(2 * freedom))


class Shift:
    """The PSI of one window of bucket numbers after another against a reference.

    value: of the last full window, NaN before the first; alarm: were the last ``patience`` windows all above ``bound``
    and above what chance gives? Without a reference the first window becomes it. One of more counts than a window is
    scaled down to it: a bucket that it lacks says no more than a window could tell.
    """

    def __init__(
        self, buckets: int, *, window: int, bound: float, patience: int, reference: Counts | None = None
    ) -> None:
        self._window, self._bound, self._patience = window, bound, patience
        self._reference = reference
        self._counts: Counts = np.zeros(buckets, np.int64)
        self._above = 0
        self.value = math.nan

    @property
    def alarm(self) -> bool:
        """Has it been above its bound for long enough?"""
        return self._above >= self._patience

    def add(self, bucket: int) -> None:
        """Count one observation."""
        self._counts[bucket] += 1
        if self._counts.sum() < self._window:
            return
        found, self._counts = self._counts, np.zeros_like(self._counts)
        if self._reference is None:
            self._reference = found
            return
        known = int(self._reference.sum())
        self.value = psi(self._reference.astype(np.float64) * min(1.0, self._window / max(known, 1)), found)
        chance = by_chance(known, self._window, len(found))
        self._above = self._above + 1 if self.value > max(self._bound, chance) else 0


class NumberShift:
    """`Shift` of numbers: its buckets are the deciles of the first window."""

    def __init__(self, *, window: int, bound: float, patience: int) -> None:
        self._window, self._bound, self._patience = window, bound, patience
        self._first: list[float] = []
        self._edges: FloatArray = np.zeros(0)
        self._shift: Shift | None = None

    @property
    def value(self) -> float:
        """As `Shift.value`."""
        return math.nan if self._shift is None else self._shift.value

    @property
    def alarm(self) -> bool:
        """As `Shift.alarm`."""
        return self._shift is not None and self._shift.alarm

    def add(self, number: float) -> None:
        """Count one observation; one that is not finite is left out."""
        if not math.isfinite(number):
            return
        if self._shift is not None:
            self._shift.add(self._bucket(number))
            return
        self._first.append(number)
        if len(self._first) < self._window:
            return
        self._edges = np.unique(np.quantile(self._first, np.arange(0.1, 0.95, 0.1)))
        buckets = len(self._edges) + 1
        reference = np.bincount([self._bucket(one) for one in self._first], minlength=buckets)
        self._first = []
        self._shift = Shift(
            buckets, window=self._window, bound=self._bound, patience=self._patience, reference=reference
        )

    def _bucket(self, number: float) -> int:
        return int(np.searchsorted(self._edges, number, side="right"))


class Adwin:
    """An adaptive window over numbers from 0 to 1; ``delta`` bounds the chance of a cut where nothing has changed."""

    def __init__(self, delta: float = 0.002) -> None:
        self._delta = delta
        # By size 2^i, each oldest first: the sum of so many values, and of their squares.
        self._sums: list[list[tuple[float, float]]] = [[]]
        self._adds = 0
        self._total = self._squares = 0.0
        self.size = 0

    @property
    def mean(self) -> float:
        """Of the window, NaN where it is empty."""
        return self._total / self.size if self.size else math.nan

    def add(self, value: float) -> float:
        """Add a value; returns by how much the mean of what is kept lies above what was dropped, 0 if nothing was."""
        self._sums[0].append((value, value * value))
        self.size += 1
        self._total += value
        self._squares += value * value
        self._merge()
        self._adds += 1
        return self._cut() if self._adds % _EVERY == 0 else 0.0

    def _merge(self) -> None:
        """Add up the two oldest of a size wherever there are too many of it."""
        for power, sums in enumerate(self._sums):
            if len(sums) <= _PER_SIZE:
                return
            if power + 1 == len(self._sums):
                self._sums.append([])
            (one, its_squares), (other, other_squares) = sums.pop(0), sums.pop(0)
            self._sums[power + 1].append((one + other, its_squares + other_squares))

    def _cut(self) -> float:
        """Drop from the old end while some cut of the window separates two means."""
        size, total = self.size, self._total
        while self._differs():
            power = max(power for power, sums in enumerate(self._sums) if sums)
            gone, squares = self._sums[power].pop(0)
            self.size -= 1 << power
            self._total -= gone
            self._squares -= squares
        dropped = size - self.size
        return self.mean - (total - self._total) / dropped if dropped else 0.0

    def _differs(self) -> bool:
        """Is there a cut whose two parts have different means?"""
        n = self.size
        if n < 2 * _LEAST:
            return False
        variance = max(self._squares / n - self.mean**2, 0.0)
        width = math.log(2 * math.log(n) / self._delta)
        count, older = 0, 0.0
        for power in range(len(self._sums) - 1, -1, -1):
            for one, _ in self._sums[power]:
                count, older = count + (1 << power), older + one
                if count < _LEAST or n - count < _LEAST:
                    continue
                inverse = 1 / count + 1 / (n - count)
                bound = math.sqrt(2 * inverse * variance * width) + 2 / 3 * inverse * width
                if abs(older / count - (self._total - older) / (n - count)) > bound:
                    return True
        return False
