"""Turn a new generation towards the one before: `streamer.factors.align` over the items that both have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from schemas.records import Alignment
from streamer.factors.align import procrustes, rotate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

F32 = npt.NDArray[np.float32]


@dataclass(slots=True)
class Turn:
    """towards: the item vectors (k,) of the generation ``parent_version`` by item id; done: what came of it."""

    parent_version: str
    towards: Mapping[str, F32]
    done: Alignment | None = None

    def __call__(self, item_ids: Sequence[str], items: F32) -> F32:
        """The item vectors (m, k) turned; as they are where both have no item, or another dimension."""
        rows = [row for row, item_id in enumerate(item_ids) if item_id in self.towards]
        if not rows or len(self.towards[item_ids[rows[0]]]) != items.shape[1]:
            return items
        rotation, residual = procrustes(items[rows], np.stack([self.towards[item_ids[row]] for row in rows]))
        self.done = Alignment(self.parent_version, len(rows), residual)
        return rotate(items, rotation)
