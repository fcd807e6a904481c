"""Rows that change their shape keep what a row of the new shape would hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.layouts import (
    Extras,
    RowShape,
    Suppression,
    UserRows,
    decode_user_rows,
    empty_user_rows,
    encode_user_rows,
)
from schemas.reshape import reshape_user_rows

OLD = RowShape(4, 12, 10, 2)


def rows_of(entries: int, keys: int, seed: int) -> UserRows:
    """One user with so many entries, and after so many keys."""
    draw = np.random.default_rng(seed)
    rows = empty_user_rows(1, OLD)
    rows.head["version"], rows.head["events"], rows.head["generation"] = 7, 99, 5
    rows.head["entries"], rows.head["keys"], rows.head["key_head"] = entries, min(keys, OLD.keys), keys % OLD.keys
    rows.vector[:], rows.epochs[:] = draw.normal(size=(1, 4)), [[3, 4]]
    rows.item[0, :entries] = draw.permutation(1_000)[:entries] + 1
    rows.time[0, :entries] = draw.integers(1, 6, entries)
    rows.strength[0, :entries] = draw.random(entries)
    for number in range(keys):
        slot = number % OLD.keys
        rows.request[0, slot], rows.fingerprint[0, slot], rows.key_time[0, slot] = number + 1, number, number
    rows.extras[0] = Extras((Suppression("i", 1, 2, 3, 4),))
    return rows


@given(
    entries=st.integers(0, 12),
    keys=st.integers(0, 30),
    history=st.integers(1, 20),
    capacity=st.integers(1, 20),
    dimension=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_the_newest_stay(entries: int, keys: int, history: int, capacity: int, dimension: int, seed: int) -> None:
    """Entries by (time, item), in their order; keys oldest first; all else as it was; bytes that can be read again."""
    old = rows_of(entries, keys, seed)
    new = reshape_user_rows(old, shape := RowShape(dimension, history, capacity, 2))
    all_entries = list(zip(old.item[0].tolist(), old.time[0].tolist(), old.strength[0].tolist(), strict=True))[:entries]
    gone = sorted(all_entries, key=lambda one: (one[1], one[0]))[: max(entries - history, 0)]
    kept = [one for one in all_entries if one not in gone]
    count = int(new.head["entries"][0])
    assert list(zip(new.item[0].tolist(), new.time[0].tolist(), new.strength[0].tolist(), strict=True))[:count] == kept
    remembered = list(range(1, keys + 1))[-OLD.keys :][-capacity:]
    assert new.request[0, : len(remembered)].tolist() == remembered
    assert int(new.head["keys"][0]) == len(remembered)
    assert int(new.head["key_head"][0]) == len(remembered) % capacity
    assert not new.vector.any()
    assert new.epochs.tolist() == [[3, 4]]
    assert [int(new.head[name][0]) for name in ("version", "events", "generation")] == [7, 99, 5]
    assert new.extras == old.extras
    (data,) = encode_user_rows(new)
    assert encode_user_rows(decode_user_rows([data], shape)) == [data]


def test_item_partitions_never_change() -> None:
    """Their offsets in a row would mean nothing."""
    with pytest.raises(ValueError, match="2 item partitions, not 3"):
        reshape_user_rows(rows_of(1, 1, 0), RowShape(4, 12, 10, 3))
