"""How good a model is, all of it: what it foretells, beside the active one, and what its vectors are like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bootstrap import rated
from bootstrap.ann import MISSING, ann_recall, installed
from bootstrap.artifact import open_items
from bootstrap.columns import columns_of
from bootstrap.content import catalogue_of
from bootstrap.fit import examine, score
from bootstrap.gates import foretold, judge
from bootstrap.incumbent import Incumbent, beside, kept
from bootstrap.metrics import of_vectors
from bootstrap.windows import NONE, segments_of
from streamer.errors import DataError

if TYPE_CHECKING:
    from bootstrap.columns import Columns
    from bootstrap.content import Catalogue
    from bootstrap.fit import Examined, Recipe
    from bootstrap.job import Lineage
    from bootstrap.progress import Show
    from bootstrap.read import Log
    from schemas.records import Gate
    from streamer.settings import Settings

F32 = npt.NDArray[np.float32]
_COMPARED = ("implicit-als", "implicit-bpr")


@dataclass(frozen=True, slots=True)
class Vectors:
    """What a model publishes: item_ids, items (m, k), users (n, k), has_history (n,): whose vector is their own.

    Of explicit feedback both have k + 1 numbers, their bias last.
    """

    item_ids: list[str]
    items: F32
    users: F32
    has_history: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Judged:
    """A model of the older events, held to the gates; remarks: what was left out, and why.

    examined: None where the events were too few for two sides, or are ratings, which nobody ranks.
    """

    examined: Examined | None
    metrics: dict[str, float]
    gates: list[Gate]
    remarks: list[str]


def judged(settings: Settings, log: Log, plan: Recipe, heritage: Lineage, show: Show) -> Judged:
    """Foretell the newest events by a model of the others, and hold it to the gates; nothing is kept.

    Raises:
        DataError: a gate needs what is not installed.
    """
    columns, _ = columns_of(log, settings.policy, heritage.item_key)
    catalogue = catalogue_of(log.catalogue, heritage.item_key)
    if plan.policy.feedback == "explicit":
        return _judged_ratings(settings, columns, plan, heritage, catalogue, show)
    examined, metrics, remarks = measure(settings, log, columns, plan, heritage, catalogue, show)
    metrics |= kept_of(heritage, columns.item_ids, columns.user_ids, catalogue)
    if examined is None:
        return _nothing_foretold(settings, metrics, heritage, remarks)
    trained = examined.trained
    # Users who only come after the cut are no part of this model.
    there = trained.users.event_time > 0
    has_history = np.diff(trained.users.history_start)[there] > 0
    vectors = Vectors(trained.matrix.item_ids, trained.space.vectors, trained.solved.vectors[there], has_history)
    metrics["parity_error"] = trained.solved.parity_error
    metrics |= of_model(settings, vectors, columns, catalogue, ask_index=installed())
    if not installed():
        remarks.append(f"no recall of an index: {MISSING}")
    return Judged(examined, metrics, held(settings, vectors, metrics, heritage), remarks)


def _nothing_foretold(settings: Settings, metrics: dict[str, float], heritage: Lineage, remarks: list[str]) -> Judged:
    """Without two sides there is no model to look at; what was asked for is not measured."""
    gates = foretold(metrics, settings.gates, successor=heritage.parent_version is not None)
    return Judged(None, metrics, gates, remarks)


def kept_of(heritage: Lineage, item_ids: list[str], user_ids: list[str], catalogue: Catalogue) -> dict[str, float]:
    """`incumbent.kept` of a model of all events given, where there is a generation before it."""
    return kept(heritage.parent_url, item_ids, user_ids, catalogue.withdrawn) if heritage.parent_url else {}


def _judged_ratings(
    settings: Settings, columns: Columns, plan: Recipe, heritage: Lineage, catalogue: Catalogue, show: Show
) -> Judged:
    found, remarks = rated.examine(columns, plan, show), _unranked(settings, heritage)
    metrics = kept_of(heritage, columns.item_ids, columns.user_ids, catalogue)
    if found is None:
        return _nothing_foretold(settings, metrics, heritage, remarks)
    made, errors = found
    there = made.users.event_time > 0
    ids = [columns.item_ids[item] for item in made.kept.tolist()]
    vectors = Vectors(ids, made.items, made.vectors[there], np.diff(made.users.history_start)[there] > 0)
    metrics |= {**errors, "parity_error": rated.audit(made, plan.policy)}
    metrics |= of_model(settings, vectors, columns, catalogue, ask_index=False)
    return Judged(None, metrics, held(settings, vectors, metrics, heritage), remarks)


def _unranked(settings: Settings, heritage: Lineage) -> list[str]:
    """What is asked for and has no meaning for ratings."""
    remarks = []
    if heritage.parent_url:
        remarks.append(f"not compared with {heritage.parent_version}: ratings are compared with biases alone")
    if settings.bootstrap.segment_by:
        remarks.append("no segments: ratings are not ranked")
    if settings.gates.min_ann_recall:
        remarks.append("no recall of an index: ratings are not ranked")
    return remarks


def measure(
    settings: Settings,
    log: Log,
    columns: Columns,
    plan: Recipe,
    heritage: Lineage,
    catalogue: Catalogue,
    show: Show,
) -> tuple[Examined | None, dict[str, float], list[str]]:
    """The evaluation, beside the active model where there is one; and what was left out of it.

    Raises:
        DataError: a gate needs what is not installed.
    """
    if plan.policy.feedback == "explicit":
        return None, score(columns, plan, show), _unranked(settings, heritage)
    if settings.gates.min_ann_recall and not installed():
        raise DataError(f"gates.min_ann_recall cannot be judged: {MISSING}.")
    attribute, remarks = settings.bootstrap.segment_by, list[str]()
    segments = segments_of(log, columns, attribute) if attribute else None
    if segments is not None and segments.names == [NONE]:
        remarks.append(f"no segments: no event has bootstrap.segment_by = {attribute!r} in its context")
        segments = None
    examined = examine(columns, plan, show, catalogue=catalogue, segments=segments)
    if examined is None:
        return None, {}, remarks
    metrics = dict(examined.metrics)
    active, why = incumbent(heritage)
    if active is not None:
        metrics |= beside(log, columns, examined, plan, active, heritage.item_key, show, catalogue)
    if why:
        remarks.append(why)
    return examined, metrics, remarks


def incumbent(heritage: Lineage) -> tuple[Incumbent | None, str]:
    """The model before, as the candidate is compared with it; None and the reason where that cannot be."""
    if not heritage.parent_url:
        return None, ""
    try:
        manifest, item_ids, items, weights = open_items(heritage.parent_url)
    except DataError as problem:
        return None, f"not compared with {heritage.parent_version}: {problem}"
    if manifest.algorithm not in _COMPARED:
        return None, f"not compared with {heritage.parent_version}: it is {manifest.algorithm}"
    return Incumbent(manifest, item_ids, items, weights), ""


def of_model(
    settings: Settings, vectors: Vectors, columns: Columns, catalogue: Catalogue, *, ask_index: bool
) -> dict[str, float]:
    """Norms, coverage and, if asked for, the recall of an index.

    item_coverage: the share of the catalogue's active items, or without one of all that have events, with a vector.
    """
    # Without the biases, which say nothing of vectors that have collapsed.
    k = settings.bootstrap.dimension
    metrics = of_vectors(vectors.items[:, :k], vectors.users[:, :k], vectors.has_history)
    wanted = catalogue.active or frozenset(columns.item_ids)
    metrics["item_coverage"] = len(wanted.intersection(vectors.item_ids)) / max(len(wanted), 1)
    if ask_index and settings.policy.feedback == "implicit":
        found = ann_recall(vectors.items, vectors.users[vectors.has_history], settings.bootstrap.recall_k)
        metrics |= {} if found is None else {"ann_recall": found}
    return metrics


def held(settings: Settings, vectors: Vectors, metrics: dict[str, float], heritage: Lineage) -> list[Gate]:
    """The gates of the settings."""
    return judge(
        vectors.items,
        vectors.users,
        metrics,
        dimension=settings.bootstrap.dimension + (settings.policy.feedback == "explicit"),
        norm_cap=settings.policy.norm_cap,
        bounds=settings.gates,
        successor=heritage.parent_version is not None,
    )
