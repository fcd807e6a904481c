"""From a log to a model: fold, weigh, alternate, solve; twice, first without the newest events to see what it is worth.

The published model is fitted on all events, the metrics come from one that has not seen the newest ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bootstrap.als import Training, fit_items
from bootstrap.evaluate import LIMIT, Trained, evaluate, split
from bootstrap.fold import fold
from bootstrap.matrix import build, weights_of
from bootstrap.model import Model, gramian
from bootstrap.priors import priors_for
from bootstrap.users import solve_users, space_of
from streamer.errors import CheckFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bootstrap.als import Iteration
    from bootstrap.columns import Columns
    from bootstrap.progress import Show
    from schemas.records import Policy


F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a fit takes beside the events.

    tolerance: the stream's solver's; k: of the metrics; segment_users: the fewest users that make a segment.
    """

    training: Training
    policy: Policy
    tolerance: float
    k: int
    train_fraction: float
    segment_users: int = 20


def fit(columns: Columns, recipe: Recipe, show: Show, start: Mapping[str, F32] | None = None) -> tuple[Model, float]:
    """The model of all events, and the parity error of its user vectors; ``start``: item vectors (k,) to begin from."""
    trained = _train(columns, recipe, show, "fitting", start)
    matrix, solved = trained.matrix, trained.solved
    items = trained.space.vectors.copy()
    model = Model(
        item_ids=matrix.item_ids,
        items=items,
        popularity=matrix.popularity,
        item_event_time=matrix.event_time,
        users=trained.users,
        user_vectors=solved.vectors,
        gramian_items=gramian(items),
        gramian_users=gramian(solved.vectors),
        average_user=solved.average,
        segments=trained.segments,
        popularity_user=trained.popularity_user,
        weights=weights_of(matrix, recipe.policy.unobserved_power),
    )
    return model, solved.parity_error


def score(columns: Columns, recipe: Recipe, show: Show) -> dict[str, float]:
    """The metrics of a model of the events before the cut, over those after it."""
    before, after = split(columns, recipe.train_fraction)
    if not len(before) or not len(after):
        return {}
    # Log order again: the histories are folded as they were logged.
    trained = _train(columns.take(np.sort(before)), recipe, show, "fitting for the evaluation")
    with show("evaluating", min(len(after), LIMIT)) as say:
        return evaluate(
            columns,
            before,
            after,
            trained,
            recipe.policy,
            k=recipe.k,
            tolerance=recipe.tolerance,
            on_events=lambda done: say(done, ""),
        )


def _train(columns: Columns, recipe: Recipe, show: Show, what: str, start: Mapping[str, F32] | None = None) -> Trained:
    users = fold(columns, recipe.policy)
    matrix = build(columns, users, recipe.policy, int(columns.at.max(initial=0)))
    with show(what, recipe.training.iterations) as say:

        def tell(iteration: Iteration) -> None:
            say(iteration.number, f"loss {iteration.loss:,.0f}")

        began = None if start is None else _begin(matrix.item_ids, start, recipe.training.dimension)
        weights = weights_of(matrix, recipe.policy.unobserved_power)
        items = fit_items(matrix.by_user, matrix.by_item, recipe.training, tell, began, weights)
    if not np.isfinite(items).all():
        raise CheckFailed("the fit left the range of float32: lower policy.alpha, or raise policy.ridge.")
    space = space_of(matrix, items, recipe.policy)
    solved = solve_users(matrix, space, recipe.policy, recipe.tolerance)
    priors = priors_for(columns, users, matrix, space, solved, recipe.policy, recipe.segment_users)
    return Trained(users, matrix, space, solved, *priors)


def _begin(item_ids: list[str], start: Mapping[str, F32], dimension: int) -> F32:
    """Where each item begins; not a number for those that the start does not know."""
    began = np.full((len(item_ids), dimension), np.nan, np.float32)
    for row, item_id in enumerate(item_ids):
        if item_id in start:
            began[row] = start[item_id]
    return began
