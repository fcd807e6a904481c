"""From a log to a model: fold, weigh, alternate, solve; twice, first without the newest events to see what it is worth.

The published model is fitted on all events, the metrics come from one that has not seen the newest ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from bootstrap import rated
from bootstrap.als import Training, fit_items
from bootstrap.bpr import Ranking, fit_bpr
from bootstrap.descent import Descent
from bootstrap.evaluate import LIMIT, Trained, evaluate, split
from bootstrap.explicit import Ridges
from bootstrap.fold import fold
from bootstrap.matrix import build
from bootstrap.model import Model, begin, gramian
from bootstrap.users import solve_users, space_of
from streamer.errors import CheckFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bootstrap.als import Iteration
    from bootstrap.columns import Columns
    from bootstrap.progress import Show
    from schemas.records import Policy


F32 = npt.NDArray[np.float32]
_RIDGES, _DESCENT, _RANKING = Ridges(10.0, 10.0, 3.0, 3.0), Descent(), Ranking()


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a fit takes beside the events; ``tolerance`` is the stream's solver's.

    ``objective``: als, sgd or bpr; ridges and descent are of explicit feedback, ranking is bpr's.
    """

    training: Training
    policy: Policy
    tolerance: float
    k: int
    train_fraction: float
    objective: Literal["als", "sgd", "bpr"] = "als"
    ridges: Ridges = _RIDGES
    descent: Descent = _DESCENT
    ranking: Ranking = _RANKING

    @property
    def algorithm(self) -> str:
        """As the manifest names it."""
        return f"{self.policy.feedback}-{self.objective}"


def fit(columns: Columns, recipe: Recipe, show: Show, start: Mapping[str, F32] | None = None) -> tuple[Model, float]:
    """The model of all events, and the parity error of its user vectors; ``start``: item vectors (k,) to begin from."""
    if recipe.policy.feedback == "explicit":
        return rated.fit(columns, recipe, show, start)
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
    )
    return model, solved.parity_error


def score(columns: Columns, recipe: Recipe, show: Show) -> dict[str, float]:
    """The metrics of a model of the events before the cut, over those after it."""
    before, after = split(columns, recipe.train_fraction)
    if not len(before) or not len(after):
        return {}
    if recipe.policy.feedback == "explicit":
        return rated.score(columns, before, after, recipe, show)
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

        began = None if start is None else begin(matrix.item_ids, start, recipe.training.dimension)
        training = recipe.training
        if recipe.objective == "bpr":
            items = fit_bpr(
                matrix.by_user,
                training.dimension,
                training.iterations,
                recipe.ranking,
                training.seed,
                tell,
                patience=training.patience,
                start=began,
            )
        else:
            items = fit_items(matrix.by_user, matrix.by_item, training, tell, began)
    if not np.isfinite(items).all():
        raise CheckFailed("the fit left the range of float32: lower policy.alpha, or raise policy.ridge.")
    space = space_of(matrix, items, recipe.policy)
    return Trained(users, matrix, space, solve_users(matrix, space, recipe.policy, recipe.tolerance))
