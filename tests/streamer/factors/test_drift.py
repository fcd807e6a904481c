"""PSI and ADWIN against their formulas, hand-made sequences and a slow twin."""

from __future__ import annotations

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.factors.drift import Adwin, NumberShift, Shift, by_chance, psi

HISTOGRAMS = st.integers(2, 8).flatmap(
    lambda size: st.tuples(*[st.lists(st.integers(0, 10_000), min_size=size, max_size=size)] * 2)
)


@given(HISTOGRAMS)
def test_psi_is_a_symmetric_distance(pair: tuple[list[int], list[int]]) -> None:
    """Never negative, 0 of the same counts, the same either way round, and not changed by the buckets' order."""
    one, other = (np.array(side, np.int64) for side in pair)
    found = psi(one, other)
    assert math.isfinite(found)
    assert found >= -1e-12
    assert psi(one, one) == 0.0
    assert psi(other, one) == pytest.approx(found)
    assert psi(one[::-1], other[::-1]) == pytest.approx(found)


def test_psi_by_hand() -> None:
    """Half of one type becomes a quarter: 2 * 0.25 * ln 2 and so on, to within the half counts."""
    expected = (0.25 - 0.5) * math.log(0.25 / 0.5) + (0.75 - 0.5) * math.log(0.75 / 0.5)
    assert psi(np.array([500_000, 500_000]), np.array([250_000, 750_000])) == pytest.approx(expected, rel=1e-5)


def test_small_counts_do_not_pass_for_a_shift() -> None:
    """Of 2,000 pairs drawn from one distribution next to none exceeds what chance gives; of another, each does."""
    draw = np.random.default_rng(0)
    shares = draw.dirichlet(np.ones(20))
    same = [psi(*draw.multinomial(300, shares, size=2)) for _ in range(2_000)]
    assert np.mean(np.array(same) > by_chance(300, 300, 20)) < 0.01
    assert np.mean(same) == pytest.approx(19 * 2 / 300, rel=0.25)
    other = psi(draw.multinomial(300, shares), draw.multinomial(300, shares[::-1]))
    assert other > by_chance(300, 300, 20)


def test_a_shift_must_last() -> None:
    """One strange window is no alarm, three in a row are, and the first good one ends it."""
    shift = Shift(2, window=100, bound=0.25, patience=3, reference=np.array([500, 500]))

    def window(ones: int) -> bool:
        for number in range(100):
            shift.add(int(number < ones))
        return shift.alarm

    assert not window(50)
    assert shift.value == pytest.approx(0.0, abs=1e-3)
    assert [window(95), window(50), window(95), window(95)] == [False] * 4
    assert window(95)
    assert shift.value > 0.25
    assert not window(50)


def test_a_small_window_is_no_alarm_by_chance() -> None:
    """Of the same distribution, over twenty buckets: above the bound nearly always, and above chance hardly ever."""
    draw = np.random.default_rng(0)
    shift = Shift(20, window=40, bound=0.01, patience=1, reference=np.full(20, 1_000))
    above = alarms = 0
    for _ in range(200):
        for bucket in draw.integers(0, 20, 40).tolist():
            shift.add(bucket)
        above += shift.value > 0.01
        alarms += shift.alarm
    assert above > 190
    assert alarms <= 2
    for _ in range(40):
        shift.add(7)
    assert shift.alarm


def test_without_a_reference_the_first_window_is_it() -> None:
    """Nothing is said of it."""
    shift = Shift(2, window=10, bound=0.25, patience=1)
    for bucket in [0] * 10:
        shift.add(bucket)
    assert math.isnan(shift.value)
    for bucket in [1] * 10:
        shift.add(bucket)
    assert shift.alarm


def test_numbers_by_the_deciles_of_their_first_window() -> None:
    """The same distribution stays below, a moved one rises; what is not finite is left out."""
    draw = np.random.default_rng(1)
    shift = NumberShift(window=1_000, bound=0.25, patience=2)
    for number in [math.nan, math.inf, *draw.normal(size=3_000)]:
        shift.add(float(number))
    assert 0 < shift.value < 0.1
    assert not shift.alarm
    for number in draw.normal(loc=1.0, size=2_000):
        shift.add(float(number))
    assert shift.value > 0.25
    assert shift.alarm


def test_numbers_that_are_all_the_same() -> None:
    """Deciles that coincide are one bucket less, not an error."""
    shift = NumberShift(window=10, bound=0.25, patience=1)
    for number in [0.0] * 30:
        shift.add(number)
    assert shift.value == 0.0
    for number in [1.0] * 10:
        shift.add(number)
    assert shift.value == 0.0  # above the only edge as before: nothing below it was ever seen


def test_a_constant_is_never_cut() -> None:
    """However long."""
    adwin = Adwin()
    assert not any(adwin.add(0.3) for _ in range(5_000))
    assert adwin.size == 5_000
    assert adwin.mean == pytest.approx(0.3)


def test_a_rise_is_found_soon_and_what_was_before_is_forgotten() -> None:
    """From a loss of 0.6 to 0.9: a positive answer within 200 values, and the window's mean follows."""
    draw = np.random.default_rng(2)
    adwin = Adwin()
    before = [adwin.add(float(one)) for one in draw.random(2_000) < 0.6]
    assert not any(before)
    after = [adwin.add(float(one)) for one in draw.random(1_000) < 0.9]
    found = next(at for at, rise in enumerate(after) if rise)
    assert found < 200
    assert 0 < after[found] < 0.3
    assert adwin.mean == pytest.approx(0.9, abs=0.05)
    fall = [adwin.add(float(one)) for one in draw.random(1_000) < 0.5]
    assert min(fall) < 0
    assert max(fall) <= 0


def test_noise_is_hardly_ever_cut() -> None:
    """Of forty streams of 3,000 coin tosses at most one is cut at all."""
    draw = np.random.default_rng(3)
    cut = 0
    for _ in range(40):
        adwin = Adwin()
        cut += any(adwin.add(float(one)) for one in draw.random(3_000) < 0.85)
    assert cut <= 1


def must_be_cut(values: list[float], delta: float) -> bool:
    """ADWIN's question of the values themselves, at every cut."""
    n, all_of_them = len(values), np.array(values)
    if n < 10:
        return False
    older = np.arange(5, n - 4)
    sums = np.cumsum(all_of_them)[older - 1]
    inverse = 1 / older + 1 / (n - older)
    width = math.log(2 * math.log(n) / delta)
    bound = np.sqrt(2 * inverse * all_of_them.var() * width) + 2 / 3 * inverse * width
    return bool((np.abs(sums / older - (all_of_them.sum() - sums) / (n - older)) > bound + 1e-12).any())


@hypothesis.settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 10)), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_the_window_is_the_newest_values_and_nothing_is_cut_without_need(
    parts: list[tuple[int, int]], seed: int
) -> None:
    """Size and mean are those of a suffix; a window that its slow twin would leave whole stays whole."""
    draw = np.random.default_rng(seed)
    values = [float(draw.random() < rate / 10) for count, rate in parts for _ in range(count)]
    adwin, kept = Adwin(delta=0.3), list[float]()
    for value in values:
        kept.append(value)
        adwin.add(value)
        assert adwin.size == len(kept) or must_be_cut(kept, 0.3)
        kept = kept[len(kept) - adwin.size :]
        assert adwin.mean == pytest.approx(float(np.mean(kept)))


def test_it_agrees_with_river_where_that_is_installed() -> None:
    """Another implementation of the same paper sees the same changes, at most a few looks apart."""
    drift = pytest.importorskip("river.drift", reason="river is not installed")
    draw = np.random.default_rng(4)
    values = [float(one) for rate in (0.6, 0.9, 0.5) for one in draw.random(1_500) < rate]
    theirs, mine = drift.ADWIN(delta=0.002), Adwin(0.002)
    found: tuple[list[int], list[int]] = ([], [])
    for at, value in enumerate(values):
        theirs.update(value)
        if theirs.drift_detected:
            found[0].append(at)
        if mine.add(value):
            found[1].append(at)
    for change in (1_500, 3_000):
        first = [next(at for at in seen if at >= change) for seen in found]
        assert abs(first[0] - first[1]) <= 64
