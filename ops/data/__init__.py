"""Data for the demo, the tests and the benchmarks: MovieLens-100K where it can be had, else made up."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ops.data import movielens, synthetic
from ops.data.dataset import Dataset, DataUnavailableError, write_ndjson

__all__ = ["CACHE", "DataUnavailableError", "Dataset", "Source", "load", "write_ndjson"]

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "data"
Source = Literal["auto", "movielens", "synthetic"]


def load(source: Source = "auto", *, seed: int = 0, cache: Path = CACHE) -> Dataset:
    """The data set; ``auto`` falls back to the made-up one, and its note says why.

    Raises:
        DataUnavailableError: ``movielens`` was asked for and cannot be had.
    """
    if source == "synthetic":
        return synthetic.load(seed)
    try:
        return movielens.load(cache)
    except DataUnavailableError as reason:
        if source == "movielens":
            raise
        return synthetic.load(seed, note=f"MovieLens-100K cannot be had ({reason}); made-up data stand in for it")
