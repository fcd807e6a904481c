"""The recall of an index: nearly all on friendly vectors, little where the index is asked by another measure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bootstrap import ann
from bootstrap.ann import ann_recall


def drawn(count: int, seed: int) -> Any:
    draw = np.random.default_rng(seed)
    return (draw.standard_normal((count, 16)) * draw.gamma(1.0, 1.0, (count, 1))).astype(np.float32)


def test_an_index_finds_nearly_all() -> None:
    """The same twice; with more asked for than there is; with vectors that are not finite left out."""
    pytest.importorskip("usearch")
    items, users = drawn(800, 0), drawn(50, 1)
    found = ann_recall(items, users, 10)
    assert found is not None
    assert 0.9 < found <= 1
    assert ann_recall(items, users, 10) == found
    assert ann_recall(items[:3], users, 10) == 1
    items[5], users[7] = np.nan, np.inf
    again = ann_recall(items, users, 10)
    assert again is not None
    assert 0.9 < again <= 1
    assert ann_recall(items[:0], users, 10) is None


def test_an_index_of_another_measure_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """By cosine, long vectors lose what they have by inner product."""
    library = pytest.importorskip("usearch.index")

    class ByCosine:
        def Index(self, **options: Any) -> Any:  # noqa: N802 - the library's name
            return library.Index(**{**options, "metric": "cos"})

    monkeypatch.setattr(ann, "_library", ByCosine)
    found = ann_recall(drawn(800, 0), drawn(50, 1), 10)
    assert found is not None
    assert found < 0.7


def test_the_recall_is_beside_the_exact_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the two items asked for, this index always finds the first and never the second."""

    class Half:
        def Index(self, **options: Any) -> Any:  # noqa: N802 - the library's name
            return self

        def add(self, keys: Any, items: Any, **_: Any) -> None:
            self.items = items

        def search(self, asked: Any, k: int, **_: Any) -> Any:
            order = np.argsort(-(asked @ self.items.T), axis=1)
            self.keys = order[:, [0, -1]]
            return self

    monkeypatch.setattr(ann, "_library", Half)
    assert ann_recall(drawn(40, 0), drawn(9, 1), 2) == 0.5


def test_without_the_library_there_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """And whoever asks is told what to install."""
    monkeypatch.setattr(ann, "_library", lambda: None)
    assert not ann.installed()
    assert ann_recall(drawn(8, 0), drawn(5, 1), 2) is None
    assert "pip install" in ann.MISSING
