"""The item vectors of a generation as they were trained: what it is worth without the stream is measured by them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.factors.gram import gramian
from streamer.factors.space import ItemSpace

BoolArray = NDArray[np.bool_]


class FrozenItems:
    """Item vectors that no longer move, with what `solve_cholesky` asks of a space.

    vectors (m, k) float32 and known (m,) are by the numbers of another space, the served one: an item that came to it
    later is not known, and its row is zeros. gramian: V'diag(w)V over all that was trained, float64.
    """

    def __init__(self, trained: ItemSpace, ids: Sequence[str]) -> None:
        """A copy of what is trained; ids: (m,) of the served space."""
        self.rule, self.dimension = trained.rule, trained.dimension
        place = np.array([trained.index_of(item_id) for item_id in ids], np.intp)
        self.known: BoolArray = place >= 0
        self.vectors = np.where(self.known[:, None], trained.vectors[place], np.float32(0))
        self.gramian = gramian(trained.vectors, trained.weights if trained.weighted else None)

    def knows(self, index: NDArray[np.integer]) -> BoolArray:
        """Which of these items, of any shape and by the served space's numbers, were trained; -1 was not."""
        inside = (index >= 0) & (index < len(self.known))
        out: BoolArray = inside & self.known[np.where(inside, index, 0)]
        return out
