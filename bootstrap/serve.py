"""What is published of users by a generation that makes more of them than the long-term vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bootstrap.users import space_of_items
from streamer.events.hashes import item_hash
from streamer.factors.guard import guard
from streamer.factors.ridge import ridge_in
from streamer.factors.serving import Past, Priors, Served, priors_in, serve
from streamer.factors.solve import solve_batch
from streamer.factors.weigh import confidence_now, inside_window

if TYPE_CHECKING:
    from bootstrap.model import Model
    from schemas.layouts import UserRows
    from schemas.records import Manifest, Policy
    from streamer.factors.serving import Solve
    from streamer.factors.space import ItemSpace

F32 = npt.NDArray[np.float32]


def solver_of(space: ItemSpace, policy: Policy, tolerance: float) -> Solve:
    """The stream's batched solve, guarded."""

    def solve(
        index: npt.NDArray[np.int32], confidence: npt.NDArray[np.float64], start: F32
    ) -> tuple[F32, npt.NDArray[np.bool_]]:
        checked = guard(solve_batch(space, index, confidence, policy.rhs, start, tolerance).vectors, policy.norm_cap)
        return checked.vectors, checked.finite

    return solve


class Server:
    """Makes of a generation's user rows what is published of them."""

    def __init__(self, manifest: Manifest, model: Model, priors: Priors, tolerance: float) -> None:
        self._policy, self._priors = manifest.policy, priors
        key = bytes.fromhex(manifest.item_key)
        hashes = np.array([item_hash(item_id, key) for item_id in model.item_ids], np.uint64)
        self._space = space_of_items(model.item_ids, hashes, model.items, model.weights, ridge_in(manifest))
        self._solve = solver_of(self._space, manifest.policy, tolerance)

    def serve(self, rows: UserRows) -> Served:
        """What is published of the users of these rows."""
        width = max(int(rows.head["entries"].max(initial=1)), 1)
        used = np.arange(width) < rows.head["entries"][:, None]
        item, time = rows.item[:, :width], rows.time[:, :width]
        inside = inside_window(time, rows.head["event_time"][:, None], self._policy)
        index = np.where(used & inside, self._space.lookup(item), np.int32(-1))
        confidence = confidence_now(rows.strength[:, :width], time, used, self._policy)
        return serve(
            Past(item, time, used, index, confidence),
            rows.vector,
            rows.head["events"].astype(np.int64),
            rows.segments(range(len(rows))),
            self._policy,
            self._priors,
            self._solve,
        )


def server_of(manifest: Manifest, model: Model, tolerance: float) -> Server | None:
    """None where the long-term vectors are published as they are."""
    priors = priors_in(manifest)
    return None if priors is None else Server(manifest, model, priors, tolerance)
