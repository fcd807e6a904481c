"""The hash table behaves as a dict, asked in bulk."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamer.factors.table import HashTable

# Few low bits, so that searches meet; and the ends of the range.
HASHES = st.one_of(
    st.integers(1, 2**64 - 1), st.integers(1, 40).map(lambda n: n << 40), st.sampled_from([1, 2**64 - 1])
)


@given(st.lists(st.lists(HASHES, max_size=80), max_size=6), st.lists(HASHES, max_size=40))
def test_table_is_a_dict(batches: list[list[int]], strangers: list[int]) -> None:
    """After any bulk inserts every known hash gives its value, every other one and 0 give -1."""
    table, twin = HashTable(), dict[int, int]()
    for batch in batches:
        new = [key for key in dict.fromkeys(batch) if key not in twin]
        values = range(len(twin), len(twin) + len(new))
        table.insert(np.array(new, np.uint64), np.array(values, np.int32))
        twin.update(zip(new, values, strict=True))
        asked = [*twin, *strangers, 0]
        assert table.lookup(np.array(asked, np.uint64)).tolist() == [twin.get(key, -1) for key in asked]
    assert len(table) == len(twin)


def test_lookup_keeps_the_shape() -> None:
    """A (B, H) question has a (B, H) answer, empty slots included."""
    table = HashTable()
    table.insert(np.array([7, 9], np.uint64), np.array([0, 1], np.int32))
    asked = np.array([[7, 0, 8], [9, 9, 0]], np.uint64)
    assert table.lookup(asked).tolist() == [[0, -1, -1], [1, 1, -1]]
    assert table.lookup(asked[:0]).shape == (0, 3)
    assert table.lookup(asked[:, :2]).tolist() == [[0, -1], [1, 1]]


def test_table_grows() -> None:
    """Ten thousand hashes, put in by growing batches, are all found."""
    hashes = np.random.default_rng(3).integers(1, 2**63, 10_000).astype(np.uint64)
    table = HashTable()
    for start, stop in ((0, 1), (1, 10), (10, 1000), (1000, 10_000)):
        table.insert(hashes[start:stop], np.arange(start, stop, dtype=np.int32))
    assert table.lookup(hashes).tolist() == list(range(10_000))
