"""Where users of few events start: the average user, by segment too, and a vector that ranks by popularity.

The last one is the ridge regression of the items' log popularity, less its mean, on the item vectors::

    a = (V'V + ridge I)^-1 V' (log1p(p) - mean),   as long as user vectors are in the median

so that its scores follow popularity as closely as a vector of this space can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streamer.factors.coldstart import average_by_segment
from streamer.factors.serving import Priors, plain, priors_of

if TYPE_CHECKING:
    from bootstrap.columns import Columns
    from bootstrap.matrix import Matrix
    from bootstrap.model import Users
    from bootstrap.users import Solved
    from schemas.records import Policy
    from streamer.factors.space import ItemSpace

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

# Segments that a manifest names at most, those of the most users: it has to fit into a Kafka record.
_SEGMENTS = 100


def segments_of(columns: Columns, users: Users, vectors: F32, least_users: int) -> dict[str, F32]:
    """The average user of each segment that enough users with a history are of. vectors: (n, k)."""
    if users.segment is None:
        return {}
    has = np.diff(users.history_start) > 0
    names = [columns.segment_names.get(number, "") for number in users.segment[has].tolist()]
    found = average_by_segment(vectors[has], names, least_users=least_users)
    size = {name: names.count(name) for name in found}
    kept = sorted(found, key=lambda name: (-size[name], name))[:_SEGMENTS]
    return {name: found[name] for name in sorted(kept)}


def popularity_user(space: ItemSpace, popularity: F64, vectors: F32) -> F32:
    """The vector (k,) whose scores follow the popularity (m,) of the space's items. vectors: (n, k) of the users."""
    items = space.vectors.astype(np.float64)
    wanted = np.log1p(popularity)
    system = items.T @ items + space.ridge * np.eye(space.dimension)
    found = np.linalg.solve(system, items.T @ (wanted - wanted.mean()))
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    typical, length = float(np.median(lengths[lengths > 0])) if lengths.any() else 1.0, float(np.linalg.norm(found))
    return (found * (typical / length) if length else found).astype(np.float32)


def priors_for(
    columns: Columns, users: Users, matrix: Matrix, space: ItemSpace, solved: Solved, policy: Policy, least_users: int
) -> tuple[Priors | None, dict[str, F32], F32 | None]:
    """The priors that the policy asks for, and what the manifest says of them: segments and the popularity vector."""
    if plain(policy):
        return None, {}, None
    segments = segments_of(columns, users, solved.vectors, least_users)
    popular = popularity_user(space, matrix.popularity, solved.vectors) if policy.blend_events else None
    return priors_of(solved.average, popular, segments), segments, popular
