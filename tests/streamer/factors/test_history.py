"""The bounded history: three ways to fold, one result to the byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.records import DAY_MS
from streamer.factors.history import DROPPED, Histories, fold_batch, fold_event, fold_users
from tests.streamer.factors import twins

# Few users, items and times, so that repeats, ties and evictions are common.
EVENT = st.tuples(
    st.integers(0, 3),
    st.sampled_from([1, 2, 3, 5, 2**63 - 1, 2**63, 2**64 - 1]),
    st.one_of(st.floats(1e-3, 1e3), st.sampled_from([1e308, 1e-300])),
    st.one_of(st.integers(0, 6).map(lambda day: day * DAY_MS), st.integers(0, 2**62)),
)
EVENTS = st.lists(EVENT, max_size=60)
Event = tuple[int, int, float, int]
USERS, HALF_LIFE = 4, 3 * DAY_MS


def empty(width: int) -> Histories:
    return Histories(
        np.zeros((USERS, width), np.uint64),
        np.zeros((USERS, width), np.float32),
        np.zeros((USERS, width), np.int64),
        np.zeros(USERS, np.int64),
    )


def entries(histories: Histories) -> list[list[twins.Entry]]:
    return [
        list(zip(items[:n].tolist(), strength[:n].tolist(), time[:n].tolist(), strict=True))
        for items, strength, time, n in zip(
            histories.items, histories.strength, histories.time, histories.count.tolist(), strict=True
        )
    ]


def columns(events: list[Event]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    user, item, weight, at = zip(*events, strict=True) if events else ((), (), (), ())
    return (
        np.array(user, np.intp),
        np.array(item, np.uint64),
        np.array(weight, np.float64),
        np.array(at, np.int64),
    )


@given(EVENTS, st.integers(1, 4))
@example([(0, 1, 1.0, 5), (0, 2, 1.0, 5), (0, 3, 1.0, 5)], 2)
def test_scalar_fold_is_the_rule(events: list[Event], capacity: int) -> None:
    """`fold_event` gives what the rule written out gives, and reports the slot."""
    expected: list[list[twins.Entry]] = [[] for _ in range(USERS)]
    rows: list[tuple[list[int], list[float], list[int]]] = [([], [], []) for _ in range(USERS)]
    for user, item, weight, at in events:
        expected[user] = twins.fold(expected[user], item, weight, at, half_life=HALF_LIFE, capacity=capacity)
        slot = fold_event(*rows[user], item, weight, at, half_life_ms=HALF_LIFE, capacity=capacity)
        assert (slot == DROPPED) == (item not in rows[user][0])
        assert slot == DROPPED or rows[user][0][slot] == item
    assert [list(zip(*row, strict=True)) for row in rows] == expected


@given(EVENTS, st.integers(1, 4))
def test_the_three_folds_give_the_same_bytes(events: list[Event], capacity: int) -> None:
    """One event a row at a time, one event of each of several users at a time, and all at once agree."""
    rows: list[tuple[list[int], list[float], list[int]]] = [([], [], []) for _ in range(USERS)]
    single = empty(capacity)
    for user, item, weight, at in events:
        slot = fold_event(*rows[user], item, weight, at, half_life_ms=HALF_LIFE, capacity=capacity)
        _, items, weights, times = columns([(user, item, weight, at)])
        one = fold_batch(
            single.items,
            single.strength,
            single.time,
            single.count,
            items,
            weights,
            times,
            HALF_LIFE,
            rows=np.array([user]),
        )
        assert one.tolist() == [slot]
    whole = fold_users(*columns(events), users=USERS, capacity=capacity, half_life_ms=HALF_LIFE)
    expected = [list(zip(*row, strict=True)) for row in rows]
    assert entries(single) == expected
    assert entries(whole) == expected
    for name in ("items", "strength", "time"):
        wide, narrow = getattr(single, name), getattr(whole, name)
        assert not wide[:, narrow.shape[1] :].any()
        assert np.array_equal(wide[:, : narrow.shape[1]], narrow)


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 6), st.floats(0.1, 9), st.integers(0, 9)), min_size=4, max_size=4),
        max_size=9,
    )
)
def test_batches_of_all_users_agree_with_single_folds(rounds: list[list[tuple[int, float, int]]]) -> None:
    """Without `rows`, event i is row i's; a capacity below the width is kept."""
    both = empty(5), empty(5)
    for events in rounds:
        _, item, weight, at = columns([(0, *event) for event in events])
        histories = both[0]
        fold_batch(
            histories.items,
            histories.strength,
            histories.time,
            histories.count,
            item,
            weight,
            at,
            HALF_LIFE,
            capacity=3,
        )
        histories = both[1]
        for row in range(USERS):
            fold_batch(
                histories.items,
                histories.strength,
                histories.time,
                histories.count,
                item[row : row + 1],
                weight[row : row + 1],
                at[row : row + 1],
                HALF_LIFE,
                rows=np.array([row]),
                capacity=3,
            )
    assert entries(both[0]) == entries(both[1])
    assert both[0].count.max() <= 3


@given(st.permutations([(0, item, 1.0, at) for item, at in ((1, 4), (2, 4), (3, 9), (4, 1), (5, 4))]))
def test_what_is_kept_does_not_depend_on_the_order_of_arrival(events: list[Event]) -> None:
    """Of distinct items the newest stay, ties by the larger hash, whatever came first."""
    user, item, weight, at = columns(events)
    kept = fold_users(user, item, weight, at, users=1, capacity=3, half_life_ms=HALF_LIFE)
    assert set(kept.items[0].tolist()) == {3, 5, 2}


@pytest.mark.parametrize("users", [0, 3])
def test_no_events(users: int) -> None:
    """Nothing folded into nobody, or into users without events, is empty histories."""
    user, item, weight, at = columns([])
    out = fold_users(user, item, weight, at, users=users, capacity=4, half_life_ms=HALF_LIFE)
    assert out.items.shape == (users, 0)
    assert out.count.tolist() == [0] * users
