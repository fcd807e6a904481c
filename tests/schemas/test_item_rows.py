"""Item rows and signals: today's bytes stay, what is new has room of its own, damage is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from schemas.layouts import (
    HEAD_BYTES,
    ItemRow,
    LayoutError,
    decode_item_row,
    decode_signals,
    encode_item_row,
    encode_signals,
    reservoir_dtype,
)

K = 3
VECTOR = np.array([0.5, -1.5, 2.0], np.float32)
GOLDEN = (
    "01020300000000000000000000000000070000000000000002000000000000000500000000000000"
    "000010a5d40000000900000000000000"
    "0000000000000000"
    "0000003f0000c0bf0000004000000000"
)


def row(**changes: Any) -> ItemRow:
    fields: dict[str, Any] = {
        "generation": 7, "version": 2, "events": 5, "event_time": 0xD4A5100000, "source_next": 9, "vector": VECTOR,
    }  # fmt: skip
    return ItemRow(**(fields | changes))


def test_a_row_without_anything_new_has_the_bytes_it_always_had() -> None:
    """So that a store written before reads on."""
    assert encode_item_row(row()).hex() == GOLDEN
    assert len(GOLDEN) == 2 * (HEAD_BYTES + 4 * K + 4)


def test_everything_comes_back() -> None:
    """Origin, budget, fold-in and reservoir beside each other."""
    reservoir = np.zeros(2, reservoir_dtype(K))
    reservoir["user"], reservoir["confidence"], reservoir["vector"] = [3, 2**64 - 1], [1.5, 2.5], [VECTOR, -VECTOR]
    data = encode_item_row(
        row(reservoir=reservoir, folded=True, day=20_000, count=2**32 - 1, origin=2 * VECTOR, popularity=0.25)
    )
    back = decode_item_row(data, dimension=K)
    assert (back.known, back.folded, back.day, back.count, back.popularity) == (True, True, 20_000, 2**32 - 1, 0.25)
    assert back.origin is not None
    assert back.reservoir is not None
    assert np.array_equal(back.origin, 2 * VECTOR)
    assert back.reservoir.tobytes() == reservoir.tobytes()
    assert encode_item_row(back) == data
    unknown = decode_item_row(encode_item_row(row(known=False)), dimension=K)
    assert (unknown.known, unknown.folded) == (False, False)


@pytest.mark.parametrize(("at", "value"), [(0, 2), (1, 1), (2, 4), (4, 1), (6, 1), (6, 2), (8, 1)])
def test_a_damaged_row_is_refused(at: int, value: int) -> None:
    """Format, kind, dimension, entries, origins, epochs."""
    data = bytearray.fromhex(GOLDEN)
    data[at] = value
    with pytest.raises(LayoutError):
        decode_item_row(bytes(data), dimension=K)


def test_signals_of_pairs_are_a_format_of_their_own() -> None:
    """Neither form is taken for the other, even where their sizes agree."""
    both: dict[str, Any] = {"confidence": np.ones(1), "event_time": np.ones(1, np.int64), "user": np.ones(1, np.uint64)}
    [plain] = encode_signals(**both, generation=7, vector=np.ones((1, K + 2), np.float32))
    [pair] = encode_signals(**both, generation=7, vector=VECTOR[None], pair=(np.array([0.5]), np.array([-1.0])))
    assert (plain[0], pair[0], len(plain)) == (1, 2, len(pair))
    [back] = decode_signals([pair], dimension=K, pair=True)
    assert (float(back["other"]), float(back["sign"]), back["vector"].tolist()) == (0.5, -1.0, VECTOR.tolist())
    with pytest.raises(LayoutError):
        decode_signals([plain], dimension=K, pair=True)
    with pytest.raises(LayoutError):
        decode_signals([pair], dimension=K + 2)
