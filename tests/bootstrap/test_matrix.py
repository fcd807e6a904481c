"""The confidence matrix: the right ages on either side, items in order, nobody numbered twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from bootstrap.columns import columns_of
from bootstrap.fold import fold
from bootstrap.matrix import build, newest_entry
from schemas.records import DAY_MS
from tests.bootstrap.small import KEY, NOW_MS, changed, event

if TYPE_CHECKING:
    from tests.bootstrap.small import Reading


def test_each_side_measures_age_from_its_own_moment(reading: Reading) -> None:
    """A user's newest entry counts in full on the user's side, and less on the item's side of an older user."""
    policy = changed(half_life_ms=10 * DAY_MS, confidence="linear", alpha=1.0)
    log = reading(
        event("old", "a", "like", NOW_MS - 20 * DAY_MS),
        event("old", "b", "click", NOW_MS - 10 * DAY_MS),
        event("new", "b", "like", NOW_MS),
        policy=policy,
    )
    columns, collisions = columns_of(log, policy, KEY)
    users = fold(columns, policy)
    matrix = build(columns, users, policy, NOW_MS)
    assert collisions == 0
    assert matrix.item_ids == ["a", "b"]
    assert newest_entry(users).tolist() == [NOW_MS - 10 * DAY_MS, NOW_MS]
    np.testing.assert_allclose(matrix.by_user.toarray(), [[1 + 1, 1 + 1], [0, 1 + 2]])
    np.testing.assert_allclose(matrix.by_item.toarray(), [[1 + 0.5, 0], [1 + 0.5, 1 + 2]])
    np.testing.assert_allclose(matrix.popularity, [0.5, 2.5])
    assert matrix.event_time.tolist() == [NOW_MS - 20 * DAY_MS, NOW_MS]


def test_an_item_that_every_history_forgot_has_no_row(reading: Reading) -> None:
    """The matrix holds the items of the kept histories, so that every vector has something to be solved from."""
    policy = changed(history_capacity=1)
    log = reading(event("u", "a", at=NOW_MS - 2), event("u", "b", at=NOW_MS - 1), policy=policy)
    columns, _ = columns_of(log, policy, KEY)
    assert build(columns, fold(columns, policy), policy, NOW_MS).item_ids == ["b"]


def test_a_user_without_history_keeps_an_empty_row(reading: Reading) -> None:
    """Who only ever hid things is a user all the same."""
    policy = changed()
    log = reading(event("u", "a", "hide"), event("v", "a", "like"), policy=policy)
    columns, _ = columns_of(log, policy, KEY)
    users = fold(columns, policy)
    matrix = build(columns, users, policy, NOW_MS)
    assert users.ids == ["u", "v"]
    assert np.diff(matrix.by_user.indptr).tolist() == [0, 1]
    assert newest_entry(users).tolist() == [0, NOW_MS]


def test_an_item_whose_hash_is_taken_is_left_out_and_counted(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two items never share a history entry."""
    monkeypatch.setattr("bootstrap.columns.item_hash", lambda item_id, key: {"a": 1, "b": 1}.get(item_id, 7))
    log = reading(event("u", "a"), event("u", "b"), event("u", "c"))
    columns, collisions = columns_of(log, changed(), KEY)
    assert collisions == 1
    assert columns.item_ids == ["a", "c"]
    assert len(columns) == 2
