"""Weighing: decay to the bit, events in any order, confidence in its three forms."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.records import DAY_MS, Policy
from streamer.factors import weigh
from tests.streamer.factors import twins

AGES = st.integers(0, 2**62)
HALF_LIVES = st.sampled_from([0, 1, 7, 1000, DAY_MS, 30 * DAY_MS, 36_525 * DAY_MS])
STRENGTHS = st.floats(0, weigh.MAX_STRENGTH, width=32)
WEIGHTS = st.floats(1e-3, 1e308)
TIMES = st.integers(0, 2**62)


@given(st.lists(AGES, max_size=60), HALF_LIVES)
@example([0, 1, 999, 1000, 1001, 10**6, 10**6 + 1], 1000)
def test_array_and_scalar_decay_agree_to_the_bit(ages: list[int], half_life: int) -> None:
    """The array, the scalar and the specification give the same float64, whatever the ages."""
    array = weigh.decay_array(np.array(ages, np.int64), half_life)
    assert array.tolist() == [weigh.decay(age, half_life) for age in ages]
    assert array.tolist() == [twins.decay(age, half_life) for age in ages]


def test_blocks_do_not_show() -> None:
    """An array longer than a block, and of two dimensions, is the same as its parts."""
    ages = np.arange(3 * 4096 + 6, dtype=np.int64).reshape(2, -1) ** 2 * 97
    whole = weigh.decay_array(ages, 10**9)
    assert whole.shape == ages.shape
    assert whole[:, 5000].tolist() == weigh.decay_array(ages[:, 5000], 10**9).tolist()


@given(st.integers(0, 900_000), st.just(1000))
def test_decay_is_two_to_the_age(age: int, half_life: int) -> None:
    """Against exact rational arithmetic the error is the exponent's own rounding and four units of the last place."""
    exact = twins.power_of_two(age, half_life)
    allowed = Fraction(4 + age // half_life, 2**52)
    assert abs(Fraction(weigh.decay(age, half_life)) - exact) <= exact * allowed


def test_decay_at_whole_half_lives_and_at_its_ends() -> None:
    """Whole half-lives are exact; no half-life means no decay; after a thousand of them nothing is left."""
    assert [weigh.decay(n * DAY_MS, DAY_MS) for n in range(4)] == [1.0, 0.5, 0.25, 0.125]
    assert weigh.decay(2**62, 0) == 1.0
    assert weigh.decay(999, 1) == 2.0**-999
    assert weigh.decay(1000, 1) == 0.0
    assert weigh.decay_array(np.zeros((0, 3), np.int64), 5).shape == (0, 3)


@given(st.lists(st.tuples(STRENGTHS, TIMES, WEIGHTS, TIMES), max_size=20), HALF_LIVES)
def test_events_and_event_agree_to_the_bit(rows: list[tuple[float, int, float, int]], half_life: int) -> None:
    """Adding events as arrays gives the bytes of adding them one by one, late and absurd ones included."""
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    strength, time = weigh.add_events(
        np.array(columns[0], np.float32),
        np.array(columns[1], np.int64),
        np.array(columns[2], np.float64),
        np.array(columns[3], np.int64),
        half_life,
    )
    expected = [weigh.add_event(s, t, w, at, half_life) for s, t, w, at in rows]
    assert list(zip(strength.tolist(), time.tolist(), strict=True)) == expected
    assert np.isfinite(strength).all()


@given(st.permutations([(1.0, 5 * DAY_MS), (2.0, 9 * DAY_MS), (0.5, 9 * DAY_MS), (4.0, 0)]))
def test_order_of_arrival_does_not_matter(events: list[tuple[float, int]]) -> None:
    """The same events in any order give the same entry, to rounding."""
    strength, time = 0.0, events[0][1]
    for weight, at in events:
        strength, time = weigh.add_event(strength, time, weight, at, 3 * DAY_MS)
    expected = sum(weight * 2 ** (-(9 * DAY_MS - at) / (3 * DAY_MS)) for weight, at in events)
    assert time == 9 * DAY_MS
    assert strength == pytest.approx(expected, rel=1e-6)


def test_event_weight_is_type_times_value() -> None:
    """A purchase of value 2 weighs twice a purchase."""
    assert weigh.event_weight(Policy().weights, "purchase", 2.0) == 10.0


def test_strength_decays_from_its_own_time() -> None:
    """Each entry fades from its own newest event to the user's; a time after `now` does not grow it."""
    strength = np.array([[4.0, 4.0, 4.0]], np.float32)
    time = np.array([[0, DAY_MS, 3 * DAY_MS]], np.int64)
    faded = weigh.strength_at(strength, time, np.array([[2 * DAY_MS]]), DAY_MS)
    assert faded.tolist() == [[1.0, 2.0, 4.0]]


def test_confidence_has_three_forms() -> None:
    """Log, linear and raw, none below 1."""
    r = np.array([0.0, 0.5, 3.0])
    log, linear, raw = (
        weigh.confidence_array(r, Policy(confidence=form, alpha=2.0)).tolist() for form in ("log", "linear", "raw")
    )
    assert log == pytest.approx([1.0, 1 + 2 * math.log(1.5), 1 + 2 * math.log(4)])
    assert linear == [1.0, 2.0, 7.0]
    assert raw == [1.0, 1.0, 3.0]


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=12),
    st.floats(0.2, 8),
    st.permutations(range(12)),
)
def test_recency_counts_newer_entries(entries: list[tuple[int, bool]], half: float, shuffle: list[int]) -> None:
    """Confidence above 1 halves with every so many used entries of a newer time; ties share, slots are nothing."""
    order = [at for at in shuffle if at < len(entries)]
    time = np.array([entries[at][0] for at in order], np.int64) * DAY_MS
    used = np.array([entries[at][1] for at in order])
    used[0] = True
    strength = np.ones(len(order), np.float32)
    policy = Policy(alpha=3.0, half_life_ms=0, recency_entries=half)
    found = weigh.confidence_now(strength, time, used, policy)
    plain = 1.0 + 3.0 * math.log1p(1.0)
    for at in np.flatnonzero(used):
        newer = sum(other > time[at] for other in time[used])
        assert found[at] == pytest.approx(1.0 + (plain - 1.0) * 2.0 ** (-newer / half), rel=1e-12)
    off = weigh.confidence_now(strength, time, used, Policy(alpha=3.0, half_life_ms=0))
    assert off == pytest.approx(plain)


@pytest.mark.parametrize("form", ["log", "linear", "raw"])
def test_confidence_saturates(form: Literal["log", "linear", "raw"]) -> None:
    """The largest strength that a row can hold gives a finite confidence of at most the bound."""
    policy, zero = Policy(confidence=form, alpha=40.0), np.zeros(1, np.int64)
    huge = np.array([weigh.MAX_STRENGTH], np.float32)
    confidence = weigh.confidence_now(huge, zero, np.ones(1, bool), policy)
    assert 1.0 <= confidence[0] <= weigh.MAX_CONFIDENCE
