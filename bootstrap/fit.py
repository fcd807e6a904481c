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
from bootstrap.content import Catalogue, project
from bootstrap.descent import Descent
from bootstrap.engine import Engine
from bootstrap.evaluate import LIMIT, Foretold, Trained, foretell, split, summary
from bootstrap.explicit import Ridges
from bootstrap.fold import NothingKeptError, expect_history, fold
from bootstrap.matrix import build, weights_of, widened
from bootstrap.model import Model, begin
from bootstrap.online import foretell as foretell_online
from bootstrap.priors import priors_for
from bootstrap.unwanted import unwanted
from bootstrap.users import solve_users, space_of
from bootstrap.windows import Part, Segments, by_segment, windows, worst
from streamer.errors import CheckFailed
from streamer.factors.gram import gramian

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bootstrap.align import Turn
    from bootstrap.als import Iteration
    from bootstrap.columns import Columns
    from bootstrap.matrix import Matrix
    from bootstrap.progress import Show
    from schemas.records import Policy


F32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]
_RIDGES, _DESCENT, _RANKING = Ridges(10.0, 10.0, 3.0, 3.0), Descent(), Ranking()


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a fit takes beside the events.

    tolerance: the stream's solver's; objective: als, sgd or bpr; ridges and descent are of explicit feedback, ranking
    is bpr's; content_ridge: 0 is to be chosen; engine: what trains the item vectors, and where if that is Spark;
    items_online: measure once more with items that move; segment_users: the fewest users that make a segment.
    """

    training: Training
    policy: Policy
    tolerance: float
    k: int
    train_fraction: float
    content: bool = False
    content_ridge: float = 0.0
    windows: int = 20
    engine: Engine = Engine.NATIVE
    spark_master: str = "local[*]"
    items_online: bool = False
    segment_users: int = 20
    objective: Literal["als", "sgd", "bpr"] = "als"
    ridges: Ridges = _RIDGES
    descent: Descent = _DESCENT
    ranking: Ranking = _RANKING

    @property
    def algorithm(self) -> str:
        """As the manifest names it."""
        return f"{self.policy.feedback}-{self.objective}"


@dataclass(frozen=True, slots=True)
class Examined:
    """A model of the events before the cut, what it foretold of those after it, and what that comes to."""

    trained: Trained
    foretold: Foretold
    metrics: dict[str, float]
    windows: list[Part]
    segments: list[Part]


def fit(
    columns: Columns,
    recipe: Recipe,
    show: Show,
    start: Mapping[str, F32] | None = None,
    catalogue: Catalogue | None = None,
    turn: Turn | None = None,
) -> tuple[Model, float]:
    """The model of all events, and the parity error of its user vectors.

    ``start``: item rows to begin from, biases included; ``catalogue``: what vectors of items without events are
    projected from, which ratings are not; ``turn``: brings the item vectors into the space of the generation before.
    """
    if recipe.policy.feedback == "explicit":
        return rated.fit(columns, recipe, show, start, turn)
    trained = train(columns, recipe, show, "fitting", start, catalogue, turn)
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
        projected=trained.projected,
        segments=trained.segments,
        popularity_user=trained.popularity_user,
        weights=weights_of(matrix, recipe.policy.unobserved_power),
    )
    return model, solved.parity_error


def score(columns: Columns, recipe: Recipe, show: Show) -> dict[str, float]:
    """The metrics of a model of the events before the cut, over those after it."""
    if recipe.policy.feedback == "explicit":
        rating = rated.examine(columns, recipe, show)
        return {} if rating is None else rating[1]
    examined = examine(columns, recipe, show)
    return {} if examined is None else examined.metrics


def examine(
    columns: Columns,
    recipe: Recipe,
    show: Show,
    *,
    catalogue: Catalogue | None = None,
    segments: Segments | None = None,
) -> Examined | None:
    """All of the evaluation of a ranking; None where there are too few events for two sides, or none to learn from."""
    before, after = split(columns, recipe.train_fraction)
    if not len(before) or not len(after):
        return None
    try:
        trained = train(columns.take(np.sort(before)), recipe, show, "fitting for the evaluation", catalogue=catalogue)
    except NothingKeptError:
        return None
    foretold = replayed(columns, before, after, trained, recipe, show)
    metrics = summary(foretold, recipe.k)
    metrics |= unwanted(columns, foretold, trained.matrix, catalogue.withdrawn if catalogue else ())
    over_time = windows(foretold, recipe.windows, recipe.k)
    apart = by_segment(foretold, segments, recipe.k) if segments else []
    for name, value in (("worst_window_recall", worst(over_time)), ("worst_segment_recall", worst(apart))):
        metrics |= {} if value is None else {name: value}
    for part in apart:
        metrics |= {
            f"segment.{part.name}.events": float(part.events),
            f"segment.{part.name}.recall": part.metrics["recall"],
        }
    if recipe.items_online:
        metrics |= _moving(columns, before, after, trained, recipe, show)
    return Examined(trained, foretold, metrics, over_time, apart)


def _moving(
    columns: Columns, before: Index, after: Index, trained: Trained, recipe: Recipe, show: Show
) -> dict[str, float]:
    """The metrics where items move after each event, as the stream moves them, each named ``online_``."""
    with show("moving items", min(len(after), LIMIT)) as say:
        moved = foretell_online(
            columns,
            before,
            after,
            trained,
            recipe.policy,
            ridge_items=recipe.training.ridges[1],
            on_events=lambda done: say(done, ""),
        )
    return {f"online_{name}": value for name, value in moved.metrics(recipe.k).items()}


def replayed(columns: Columns, before: Index, after: Index, trained: Trained, recipe: Recipe, show: Show) -> Foretold:
    """`evaluate.foretell` by the recipe, shown."""
    with show("evaluating", min(len(after), LIMIT)) as say:
        return foretell(
            columns,
            before,
            after,
            trained,
            recipe.policy,
            k=recipe.k,
            tolerance=recipe.tolerance,
            on_events=lambda done: say(done, ""),
        )


def train(
    columns: Columns,
    recipe: Recipe,
    show: Show,
    what: str,
    start: Mapping[str, F32] | None = None,
    catalogue: Catalogue | None = None,
    turn: Turn | None = None,
) -> Trained:
    """Fold, weigh, alternate, project, solve: everything that a model is, of these events.

    Raises:
        NothingKeptError: no history has an entry.
        CheckFailed: the vectors left the range of float32.
    """
    users = fold(columns, recipe.policy)
    expect_history(users)
    matrix = build(columns, users, recipe.policy, int(columns.at.max(initial=0)))
    losses: list[float] = []
    items = _items(matrix, recipe, show, what, start, losses)
    if not np.isfinite(items).all():
        way = "policy.alpha, or raise policy.ridge"
        if recipe.objective == "bpr":
            way = "bootstrap.rate, or raise bootstrap.reg_users and bootstrap.reg_items"
        raise CheckFailed(f"the fit left the range of float32: lower {way}.")
    if turn is not None:
        items = turn(matrix.item_ids, items)
    projected = 0
    if recipe.content and catalogue is not None:
        # Before the users are solved: a worker's Gramian counts every published item, and so must this one.
        weight = np.sqrt(matrix.popularity)
        new = project(catalogue, matrix.item_ids, matrix.hashes, items, weight, recipe.content_ridge)
        matrix, items = widened(matrix, new.ids, new.hashes), np.concatenate([items, new.vectors])
        projected = len(new.ids)
    space = space_of(matrix, items, recipe.policy)
    solved = solve_users(matrix, space, recipe.policy, recipe.tolerance)
    priors = priors_for(columns, users, matrix, space, solved, recipe.policy, recipe.segment_users)
    return Trained(users, matrix, space, solved, projected, tuple(losses), *priors)


def _items(
    matrix: Matrix, recipe: Recipe, show: Show, what: str, start: Mapping[str, F32] | None, losses: list[float]
) -> F32:
    """The item vectors (m, k), by the engine of the recipe; ``losses`` takes that of each round."""
    if recipe.engine is Engine.SPARK:
        # Not before: the base package runs without Spark.
        from bootstrap.spark import fit_items as fit_items_on_spark

        with show(f"{what} on Spark", 1) as say:
            items = fit_items_on_spark(matrix.by_item, recipe.training, recipe.spark_master)
            say(1, "")
        return items
    with show(what, recipe.training.iterations) as say:

        def tell(iteration: Iteration) -> None:
            losses.append(iteration.loss)
            say(iteration.number, f"loss {iteration.loss:,.0f}")

        training = recipe.training
        began = None if start is None else begin(matrix.item_ids, start, training.dimension)
        if recipe.objective == "bpr":
            return fit_bpr(
                matrix.by_user,
                training.dimension,
                training.iterations,
                recipe.ranking,
                training.seed,
                tell,
                patience=training.patience,
                start=began,
            )
        weights = weights_of(matrix, recipe.policy.unobserved_power)
        return fit_items(matrix.by_user, matrix.by_item, training, tell, began, weights)
