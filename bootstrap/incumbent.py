"""The candidate beside the model that is active, on the same events, none of which either has seen.

The active model's item vectors are taken from its artifact as they were published; its users are folded in anew, with
its own policy, from the events before the cut, and follow each event after it, exactly as the candidate's do. What is
fair is a matter of what each was trained on:

- Only events after the active model's ``training_data_end`` count: it has seen the others.
- Where that is later than the evaluation's own cut, the candidate is trained once more, up to that very time.
- Where hardly any events are later, as in a second training on the same log, nothing that the active model holds can
  be judged. Its recipe can: it is trained anew before the evaluation's cut, with its own policy and hyper-parameters
  (``active_retrained`` is 1 then), by its own engine. Where that is Spark and Spark is not installed here, the native
  engine solves each row exactly, as MLlib does.

An event is scored where either model has its item; to the other, it is a miss.

Beside what both foretell, what is still there counts: a model of a part of the data foretells that part as well::

    active_items, active_items_kept    the active model's items, less those withdrawn since; those of them in this one
    active_users, active_users_kept    likewise
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bootstrap.artifact import open_ids
from bootstrap.columns import POSITIVE, columns_of
from bootstrap.engine import Engine
from bootstrap.evaluate import Trained, split
from bootstrap.fit import replayed, train
from bootstrap.fold import fold
from bootstrap.matrix import build, counted
from bootstrap.metrics import ranked
from bootstrap.session import expect_installed
from bootstrap.users import Solved, padded, space_of_items, vectors_of
from bootstrap.windows import ENOUGH as JUDGED
from streamer.errors import ConfigError, DataError
from streamer.events.hashes import item_hash
from streamer.factors.ridge import ridge_in
from streamer.factors.serving import priors_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from bootstrap.columns import Columns
    from bootstrap.content import Catalogue
    from bootstrap.evaluate import Foretold
    from bootstrap.fit import Examined, Recipe
    from bootstrap.progress import Show
    from bootstrap.read import Log
    from schemas.records import Manifest

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

ENOUGH = 200
"""Fewer positive events after the active model's training are no ground to judge its vectors by."""
_USERS = 4_096


@dataclass(frozen=True, slots=True)
class Incumbent:
    """The active model: manifest, item ids, item vectors (m, k), weights (m,) of unobserved pairs or None for 1."""

    manifest: Manifest
    item_ids: list[str]
    items: F32
    weights: F64 | None


def beside(
    log: Log,
    columns: Columns,
    examined: Examined,
    recipe: Recipe,
    incumbent: Incumbent,
    item_key: bytes,
    show: Show,
    catalogue: Catalogue | None = None,
) -> dict[str, float]:
    """``active_*`` of the active model and ``beside_active_*`` of the candidate, on the same events; see above."""
    its = _recipe_of(incumbent.manifest, recipe)
    theirs = columns_of(log, its.policy, item_key)[0]
    before, after = split(columns, recipe.train_fraction)
    candidate, unseen = examined.foretold, _unseen(columns, incumbent.manifest)
    retrained = len(unseen) < ENOUGH
    if retrained:
        what = "fitting the active model's recipe"
        active = train(theirs.take(np.sort(before)), its, show, what, catalogue=catalogue)
    else:
        if len(unseen) < np.count_nonzero(columns.kind[after] == POSITIVE):
            # Both know the events up to the same moment.
            order = np.concatenate([before, after])
            cut = int(np.searchsorted(columns.at[order], incumbent.manifest.training_data_end, side="right"))
            before, after = order[:cut], order[cut:]
            again = train(columns.take(np.sort(before)), recipe, show, "fitting beside the active", catalogue=catalogue)
            candidate = replayed(columns, before, after, again, recipe, show)
        active = folded_in(theirs.take(np.sort(before)), incumbent, its, item_key)
    found = replayed(theirs, before, after, active, its, show)
    return {**_compared(candidate, found, recipe.k), "active_retrained": float(retrained)}


def kept(
    url: str, item_ids: Iterable[str], user_ids: Iterable[str], withdrawn: Collection[str] = ()
) -> dict[str, float]:
    """How much of the active model, whose artifact is at ``url``, is in a model of these ids; empty if it is gone."""
    try:
        items, users = open_ids(url)
    except DataError:
        return {}
    wanted = set(items).difference(withdrawn)
    return {
        "active_items": float(len(wanted)),
        "active_items_kept": float(len(wanted.intersection(item_ids))),
        "active_users": float(len(users)),
        "active_users_kept": float(len(set(users).intersection(user_ids))),
    }


def compared(metrics: dict[str, float]) -> str:
    """On what both were judged, in words; "" where there was no comparison, or too little to judge by."""
    if "active_recall" not in metrics or metrics["active_events"] < JUDGED:
        return ""
    events = f"{int(metrics['active_events']):,} events"
    if metrics["active_retrained"]:
        return f"on {events} that the active model has seen, so its recipe was trained anew on what came before them"
    return f"on {events} that are newer than the active model, which is taken as it was published"


def lost(metrics: dict[str, float]) -> list[str]:
    """What of the active model is not in this one, in words; nothing where all is."""
    lines = []
    for what in ("items", "users"):
        total = int(metrics.get(f"active_{what}", 0))
        if missing := total - int(metrics.get(f"active_{what}_kept", 0)):
            lines.append(f"{missing:,} of the active model's {total:,} {what} are not in this one")
    return lines


def _unseen(columns: Columns, manifest: Manifest) -> Index:
    """The positive events that are newer than anything the model was trained on."""
    return np.flatnonzero((columns.at > manifest.training_data_end) & (columns.kind == POSITIVE))


def _recipe_of(manifest: Manifest, recipe: Recipe) -> Recipe:
    """What the active model was made by; what its manifest does not say is as the candidate has it."""
    policy, said = manifest.policy, manifest.hyperparameters
    engine = Engine(str(said.get("engine", recipe.engine)))
    if engine is Engine.SPARK:
        engine, said = _spark_or_native(said)
    ranking = {field.name: said[field.name] for field in fields(recipe.ranking) if field.name in said}
    training = replace(
        recipe.training,
        dimension=manifest.dimension,
        ridge=policy.ridge,
        rhs=policy.rhs,
        ridge_nu=policy.ridge_nu,
        ridge_alpha0=policy.ridge_alpha0,
        **_said(said, recipe.training, ("iterations", "seed", "solver", "steps", "patience", "ridge_items")),
    )
    more = _said(said, recipe, ("content", "content_ridge", "segment_users"))
    return replace(
        recipe,
        training=training,
        policy=policy,
        tolerance=float(said.get("solver_tolerance", recipe.tolerance)),
        objective="bpr" if manifest.algorithm == "implicit-bpr" else "als",
        ranking=replace(recipe.ranking, **{name: float(value) for name, value in ranking.items()}),
        engine=engine,
        **more,
    )


def _said(said: Mapping[str, Any], of: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """These fields as the manifest says them, in the type that they have in ``of``."""
    return {name: type(getattr(of, name))(said[name]) for name in names if name in said}


def _spark_or_native(said: Mapping[str, Any]) -> tuple[Engine, dict[str, Any]]:
    """The engine of a model of Spark's, and its hyper-parameters as that engine takes them: MLlib solves exactly."""
    said = {**said, "solver": "cholesky", "patience": 0.0}
    try:
        expect_installed()
    except ConfigError:
        return Engine.NATIVE, said
    return Engine.SPARK, said


def folded_in(columns: Columns, incumbent: Incumbent, recipe: Recipe, item_key: bytes) -> Trained:
    """The active model as it would stand at the end of these events: its items, and its users folded in from them."""
    policy = recipe.policy
    users = fold(columns, policy)
    matrix, counts = build(columns, users, policy, int(columns.at.max(initial=0))), counted(users, policy)
    hashes = np.array([item_hash(item_id, item_key) for item_id in incumbent.item_ids], np.uint64)
    known = replace(matrix, item_ids=incumbent.item_ids, hashes=hashes)
    # Not what these events would make of them: the weights and the ridge that its users are solved with.
    ridge = ridge_in(incumbent.manifest)
    space = space_of_items(incumbent.item_ids, hashes, incumbent.items, incumbent.weights, ridge)
    average = np.array(incumbent.manifest.average_user, np.float32)
    number, vectors = space.lookup(counts.item), np.zeros((len(users.ids), space.dimension), np.float32)
    for part in np.array_split(np.arange(len(vectors)), max(1, -(-len(vectors) // _USERS))):
        index, confidence = padded(counts.history_start, number, matrix.confidence, part)
        vectors[part] = vectors_of(space, index, confidence, policy, recipe.tolerance, average)
    return Trained(users, known, space, Solved(vectors, average, 0.0), priors=priors_in(incumbent.manifest))


def _compared(candidate: Foretold, active: Foretold, k: int) -> dict[str, float]:
    """Both on the events that either could score; an item that one of them lacks is its miss."""
    either = (candidate.folded >= 0) | (active.folded >= 0)
    metrics = {"active_events": float(either.sum())}
    for name, position in (("beside_active", candidate.folded), ("active", active.folded)):
        missed = np.where(position < 0, np.inf, position)[either]
        found = ranked(missed, candidate.user[either], k)
        metrics |= {f"{name}_{metric}": found[metric] for metric in ("recall", "ndcg")}
    return metrics
