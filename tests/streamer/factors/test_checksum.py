"""The checksum of item vectors."""

from __future__ import annotations

from hashlib import sha256

import numpy as np

from streamer.factors.checksum import items_sha256


def test_it_is_what_the_schema_says() -> None:
    """In the order of the ids' bytes, whatever the order of the rows; any bit counts."""
    vectors = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    expected = sha256(b"a\0" + vectors[1].tobytes() + "\u00e9\0".encode() + vectors[0].tobytes()).hexdigest()
    assert items_sha256(["\u00e9", "a"], vectors) == expected
    assert items_sha256(["a", "\u00e9"], vectors[::-1]) == expected
    assert items_sha256(["a", "\u00e9"], vectors) != expected
    vectors[0, 0] = np.nextafter(vectors[0, 0], 2.0)
    assert items_sha256(["\u00e9", "a"], vectors) != expected
