"""Averages for users about whom nothing is known."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.factors.coldstart import average_by_segment, average_user

USERS = np.array([[1, 2], [3, 4], [0, 0], [np.nan, 1]], np.float32)


def test_average_leaves_out_empty_and_bad_vectors() -> None:
    """Zeros are users without a vector, not users at the origin; NaN is nobody."""
    assert average_user(USERS).tolist() == [2.0, 3.0]


@pytest.mark.parametrize("rows", [0, 1])
def test_average_of_nobody_is_zero(rows: int) -> None:
    """No user, or none with a vector, gives zeros of the right length."""
    assert average_user(np.zeros((rows, 3), np.float32)).tolist() == [0.0, 0.0, 0.0]


def test_segments_need_enough_users() -> None:
    """A segment below the least count has no average, and the empty name is no segment."""
    averages = average_by_segment(USERS, ["a", "a", "", "b"], least_users=2)
    assert {name: vector.tolist() for name, vector in averages.items()} == {"a": [2.0, 3.0]}
