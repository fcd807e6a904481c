"""The guard: nothing infinite leaves, nothing longer than the cap."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streamer.factors.guard import guard

ANY = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 5), st.integers(1, 9)),
    elements=st.one_of(st.floats(-100, 100, width=32), st.sampled_from([np.nan, np.inf, -np.inf, 3e38, 1e30, 1e-40])),
)


@given(ANY, st.sampled_from([0.5, 10.0, 1000.0]))
def test_guard_is_the_rule_row_by_row(vectors: np.ndarray, cap: float) -> None:
    """A bad row becomes zeros and is flagged, a long one is scaled to the cap, the rest stays to the bit."""
    before = vectors.copy()
    out = guard(vectors, cap)
    assert np.array_equal(vectors, before, equal_nan=True)
    assert np.isfinite(out.vectors).all()
    for row, new, finite, capped in zip(vectors, out.vectors, out.finite, out.capped, strict=True):
        norm = float(np.linalg.norm(row.astype(np.float64)))
        assert finite == np.isfinite(row).all()
        assert capped == (finite and norm > cap)
        if capped:
            assert np.isclose(np.linalg.norm(new.astype(np.float64)), cap, rtol=1e-6)
            assert np.allclose(new, row.astype(np.float64) * (cap / norm), rtol=1e-6, atol=1e-44)
        else:
            assert np.array_equal(new, row if finite else np.zeros_like(row))


def test_good_vectors_are_not_copied() -> None:
    """What needs no change is given back as it came."""
    vectors = np.ones((3, 4), np.float32)
    assert guard(vectors, 1000.0).vectors is vectors
