"""From a log to a model: fold, weigh, alternate, solve; twice, first without the newest events to see what it is worth.

The published model is fitted on all events, the metrics come from one that has not seen the newest ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bootstrap.als import Training, fit_items
from bootstrap.engine import Engine
from bootstrap.evaluate import LIMIT, Trained, evaluate, split
from bootstrap.fold import fold
from bootstrap.matrix import build
from bootstrap.model import Model, gramian
from bootstrap.online import foretell
from bootstrap.users import solve_users, space_of
from streamer.errors import CheckFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bootstrap.align import Turn
    from bootstrap.als import Iteration
    from bootstrap.columns import Columns
    from bootstrap.matrix import Matrix
    from bootstrap.progress import Show
    from schemas.records import Policy


F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a fit takes beside the events.

    tolerance: the stream's solver's; engine: what trains the item vectors; spark_master: where, if that is Spark.
    """

    training: Training
    policy: Policy
    tolerance: float
    k: int
    train_fraction: float
    engine: Engine = Engine.NATIVE
    spark_master: str = "local[*]"


def fit(
    columns: Columns,
    recipe: Recipe,
    show: Show,
    start: Mapping[str, F32] | None = None,
    turn: Turn | None = None,
) -> tuple[Model, float]:
    """The model of all events, and the parity error of its user vectors.

    ``start``: item vectors (k,) to begin from; ``turn``: brings the item vectors into the space of the one before.
    """
    trained = _train(columns, recipe, show, "fitting", start, turn)
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
    )
    return model, solved.parity_error


def score(columns: Columns, recipe: Recipe, show: Show, *, online: bool = False) -> dict[str, float]:
    """The metrics of a model of the events before the cut, over those after it.

    ``online``: those with items that move, too, each named ``online_``.
    """
    before, after = split(columns, recipe.train_fraction)
    if not len(before) or not len(after):
        return {}
    # Log order again: the histories are folded as they were logged.
    trained = _train(columns.take(np.sort(before)), recipe, show, "fitting for the evaluation")
    with show("evaluating", min(len(after), LIMIT)) as say:
        metrics = evaluate(
            columns,
            before,
            after,
            trained,
            recipe.policy,
            k=recipe.k,
            tolerance=recipe.tolerance,
            on_events=lambda done: say(done, ""),
        )
    if not online:
        return metrics
    with show("moving items", min(len(after), LIMIT)) as say:
        moved = foretell(
            columns,
            before,
            after,
            trained,
            recipe.policy,
            ridge_items=recipe.training.ridges[1],
            on_events=lambda done: say(done, ""),
        )
    return metrics | {f"online_{name}": value for name, value in moved.metrics(recipe.k).items()}


def _train(
    columns: Columns,
    recipe: Recipe,
    show: Show,
    what: str,
    start: Mapping[str, F32] | None = None,
    turn: Turn | None = None,
) -> Trained:
    users = fold(columns, recipe.policy)
    matrix = build(columns, users, recipe.policy, int(columns.at.max(initial=0)))
    items = _items(matrix, recipe, show, what, start)
    if not np.isfinite(items).all():
        raise CheckFailed("the fit left the range of float32: lower policy.alpha, or raise policy.ridge.")
    if turn is not None:
        items = turn(matrix.item_ids, items)
    space = space_of(matrix, items, recipe.policy)
    return Trained(users, matrix, space, solve_users(matrix, space, recipe.policy, recipe.tolerance))


def _items(matrix: Matrix, recipe: Recipe, show: Show, what: str, start: Mapping[str, F32] | None) -> F32:
    """The item vectors (m, k), by the engine of the recipe."""
    if recipe.engine is Engine.SPARK:
        # Not before: the base package runs without Spark.
        from bootstrap.spark import fit_items as fit_items_on_spark

        with show(f"{what} on Spark", 1) as say:
            items = fit_items_on_spark(matrix.by_item, recipe.training, recipe.spark_master)
            say(1, "")
        return items
    with show(what, recipe.training.iterations) as say:

        def tell(iteration: Iteration) -> None:
            say(iteration.number, f"loss {iteration.loss:,.0f}")

        began = None if start is None else _begin(matrix.item_ids, start, recipe.training.dimension)
        return fit_items(matrix.by_user, matrix.by_item, recipe.training, tell, began)


def _begin(item_ids: list[str], start: Mapping[str, F32], dimension: int) -> F32:
    """Where each item begins; not a number for those that the start does not know."""
    began = np.full((len(item_ids), dimension), np.nan, np.float32)
    for row, item_id in enumerate(item_ids):
        if item_id in start:
            began[row] = start[item_id]
    return began
