"""The other item of a pair: the same for the same event, never one that the user has had."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamer.factors.draw import NOTHING, TRIES, draw

CATALOGUE = np.arange(1, 51, dtype=np.uint64) * np.uint64(2**57)


def twin(seed: int, size: int, attempt: int) -> int:
    """Splitmix64 in whole numbers."""
    mask = 2**64 - 1
    z = (seed + attempt * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) * size) >> 64


@given(st.lists(st.integers(1, 2**64 - 1), min_size=1, max_size=20), st.sets(st.integers(0, 49)))
def test_it_is_the_first_try_that_was_not_had(seeds: list[int], had: set[int]) -> None:
    """And nothing where all tries were had."""
    theirs = np.zeros((len(seeds), 51), np.uint64)
    theirs[:, : len(had)] = CATALOGUE[sorted(had)]
    found = draw(np.array(seeds, np.uint64), CATALOGUE, theirs)
    for seed, at in zip(seeds, found.tolist(), strict=True):
        tries = [twin(seed, 50, attempt) for attempt in range(1, TRIES + 1)]
        assert at == next((one for one in tries if one not in had), NOTHING)


def test_the_batch_does_not_matter_and_all_items_have_their_turn() -> None:
    """Each event draws alone, evenly over the catalogue."""
    seeds = np.random.default_rng(0).integers(1, 2**63, 20_000).astype(np.uint64)
    none = np.zeros((len(seeds), 1), np.uint64)
    found = draw(seeds, CATALOGUE, none)
    assert np.array_equal(found[7:9], draw(seeds[7:9], CATALOGUE, none[:2]))
    counts = np.bincount(found, minlength=50)
    assert 300 < counts.min() <= counts.max() < 500


def test_an_empty_catalogue_draws_nothing() -> None:
    """Neither does a batch without events."""
    seeds = np.ones(3, np.uint64)
    assert draw(seeds, CATALOGUE[:0], np.zeros((3, 1), np.uint64)).tolist() == [NOTHING] * 3
    assert len(draw(seeds[:0], CATALOGUE, np.zeros((0, 1), np.uint64))) == 0
