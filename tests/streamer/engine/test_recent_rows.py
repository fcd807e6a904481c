"""The rows at hand: always what RocksDB holds, and never more bytes than allowed."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.engine.store import RecentRows, RowMemory, Store, StoreMemory

KEYS = st.sampled_from([b"k%d" % number for number in range(12)])
BATCHES = st.lists(
    st.dictionaries(KEYS, st.one_of(st.none(), st.binary(min_size=1, max_size=900)), max_size=8), max_size=25
)


@given(batches=BATCHES, limit=st.sampled_from([0, 1_500, 10_000_000]))
@settings(max_examples=25, deadline=None)
def test_a_store_gives_what_was_written_whatever_is_at_hand(
    tmp_path_factory: object, batches: list[dict[bytes, bytes | None]], limit: int
) -> None:
    """Rows, deletions, and evictions in between; and the files alone give the same."""
    path = Path(tmp_path_factory.mktemp("store")) / "s"  # type: ignore[attr-defined]
    memory = StoreMemory.of(8)
    memory.rows.limit = limit
    store, model = Store(path, memory), dict[bytes, bytes | None]()
    keys = [b"k%d" % number for number in range(12)]
    for number, batch in enumerate(batches):
        store.write(list(batch.items()), number, number)
        model |= batch
        assert store.get_many(keys) == [model.get(key) for key in keys]
    store.close()
    assert memory.rows.stores == 0
    again = Store(path, memory)
    assert again.get_many(keys) == [model.get(key) for key in keys]
    again.close()


def test_the_oldest_rows_are_forgotten_first_and_stores_share_the_bytes() -> None:
    """A row written again is new again."""
    memory = RowMemory(3_000)
    one = RecentRows(memory)
    one.put([(b"a", bytes(500)), (b"b", bytes(500)), (b"c", bytes(500))])
    one.put([(b"a", bytes(500))])
    one.put([(b"d", bytes(500)), (b"e", bytes(500))])
    keys = [b"a", b"b", b"c", b"d", b"e"]
    assert [row is not None for row in one.get_many(keys)] == [True, False, True, True, True]
    other = RecentRows(memory)
    one.put([(b"f", bytes(500))])
    assert [row is not None for row in one.get_many([*keys, b"f"])] == [False, False, False, False, True, True]
    other.close()
    assert memory.share == 3_000
