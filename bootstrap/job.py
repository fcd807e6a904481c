"""The job, top to bottom: read, train, judge, keep, publish. Only here are clock and randomness handed in."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from bootstrap.align import Turn
from bootstrap.als import Training
from bootstrap.artifact import open_artifact, open_items, open_manifest
from bootstrap.bpr import Ranking
from bootstrap.broker import read_to_end
from bootstrap.columns import Columns, columns_of
from bootstrap.content import catalogue_of
from bootstrap.descent import Descent
from bootstrap.engine import Engine
from bootstrap.explicit import Ridges
from bootstrap.fit import Recipe, fit
from bootstrap.matrix import unobserved_mean
from bootstrap.quality import Vectors, held, kept_of, measure, of_model
from bootstrap.read import Log, invalid_items, judge_records, read_catalogue, read_file
from bootstrap.reference import reference_of
from bootstrap.served import served
from schemas.outcomes import Outcome, Reason
from schemas.records import SUPPRESSING, Artifact, CatalogueEntry, Manifest
from streamer.errors import ConfigError, DataError
from streamer.events.hashes import ITEM_KEY_BYTES
from streamer.events.read import Reader
from streamer.factors.gram import gramian
from streamer.factors.newcomer import UNOBSERVED_MEAN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bootstrap.model import Model
    from bootstrap.progress import Show
    from streamer.settings import Settings

PACKAGE = "streaming-factors"
_FEEDBACK = {"sgd": "explicit", "bpr": "implicit"}
# The triangle of 320 dimensions takes 0.75 MB as JSON, and a record of Kafka's default size 1 MB.
_MOST_GRAMIAN = 320


@dataclass(frozen=True, slots=True)
class Source:
    """Where events come from: an NDJSON file, "-", or None for the interactions topic; ``items`` likewise."""

    events: str | None
    items: str | None = None
    parent: str | None = None
    warm_start: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return {None: "the interactions topic", "-": "standard input"}.get(self.events, str(self.events))


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a generation takes from the one before it.

    items: the parent's item vectors (k,) by id, None where its artifact can't be read; the new space is turned towards
    them. start: the item rows that a warm start begins with, which are these vectors, and behind them their biases if
    there are any. parent_url: where that artifact lies, for the comparison with it.
    """

    item_key: bytes
    parent_version: str | None
    items: Mapping[str, npt.NDArray[np.float32]] | None = None
    start: Mapping[str, npt.NDArray[np.float32]] | None = None
    parent_url: str | None = field(default=None, compare=False)


def read(settings: Settings, source: Source, now_ms: int) -> Log:
    """The log of the source.

    Raises:
        DataError: a file cannot be read, nothing in the source has an effect, or all its ratings are the same.
        BrokerError: the topic cannot be read.
    """
    catalogue = _catalogue(settings, source)
    reader = Reader(
        settings.policy,
        tenant=settings.events.tenant,
        max_bytes=settings.events.max_bytes,
        invalid_items=invalid_items(catalogue),
    )
    if source.events is not None:
        log = read_file(source.events, reader, settings.policy, now_ms=now_ms)
    else:
        records, ends = read_to_end(settings, settings.topic("interactions"))
        log = judge_records(records, reader, settings.policy, partitions=len(ends))
        log.cut_offsets.update({str(number): end for number, end in ends.items()})
    log.catalogue = catalogue
    if not log.outcomes[Outcome.APPLIED, None]:
        unrated = settings.policy.feedback == "explicit" and log.outcomes[Outcome.FILTERED, Reason.SET_ASIDE]
        why = '; with policy.feedback = "explicit" an event without a `value` is set aside' if unrated else ""
        raise DataError(f"no event of {source.name} can be trained on: {told(log)}{why}.")
    if settings.policy.feedback == "explicit":
        _expect_ratings(source, log)
    return log


def _expect_ratings(source: Source, log: Log) -> None:
    """Were all ratings alike, each would be the mean, and every vector 0."""
    ratings = {event.value for event in log.events if event.event_type not in SUPPRESSING}
    if len(ratings) == 1:
        raise DataError(
            f"every rating in {source.name} is {ratings.pop():g}, and equal ratings teach nothing: with "
            'policy.feedback = "explicit" an event\'s `value` is its rating.'
        )


def _catalogue(settings: Settings, source: Source) -> dict[str, CatalogueEntry]:
    if source.items is not None:
        return read_catalogue(source.items)
    if source.events is not None:
        return {}
    entries: dict[str, CatalogueEntry] = {}
    for record in read_to_end(settings, settings.topic("items"))[0]:
        item_id = (record.key or b"").decode("utf-8", "replace")
        entries.pop(item_id, None)
        if record.value is not None:
            try:
                entries[item_id] = msgspec.json.decode(record.value, type=CatalogueEntry)
            except (msgspec.DecodeError, UnicodeDecodeError):
                # The workers refuse it too: what a broken entry says of its item is unknown, so it says nothing.
                continue
    return entries


def told(log: Log) -> str:
    """The outcomes in words, the most frequent first."""
    words = [
        f"{count:,} {outcome}{f' ({reason})' if reason else ''}"
        for (outcome, reason), count in log.outcomes.most_common()
    ]
    return ", ".join(words) or "it is empty"


def lineage(settings: Settings, source: Source, random_bytes: Callable[[int], bytes], *, ask_topics: bool) -> Lineage:
    """The item key: the parent's, or a new one for a first generation.

    Histories name items by keyed hashes, so a generation that is to read the kept histories needs their key.

    Raises:
        DataError: the parent's artifact is damaged.
        BrokerError: the topics cannot be read.
    """
    active = served(settings).manifest if ask_topics and source.parent is None else None
    url = source.parent or (active.artifact.uri if active is not None else None)
    if source.warm_start:
        return _warm(settings, url)
    if source.parent is not None:
        parent = open_manifest(source.parent)
        return Lineage(bytes.fromhex(parent.item_key), parent.model_version, _items_of(source.parent), parent_url=url)
    if active is not None:
        items = _items_of(active.artifact.uri)
        return Lineage(bytes.fromhex(active.item_key), active.model_version, items, parent_url=url)
    return Lineage(random_bytes(ITEM_KEY_BYTES), None)


def _items_of(url: str) -> dict[str, npt.NDArray[np.float32]] | None:
    """The item vectors in an artifact; None where they can't be read: a space that is not turned serves as well."""
    try:
        _, item_ids, items, _ = open_items(url)
    except DataError:
        return None
    return dict(zip(item_ids, items, strict=True))


def _warm(settings: Settings, url: str | None) -> Lineage:
    """The lineage of a warm start.

    Raises:
        DataError: there is no parent, its artifact cannot be read, or its vectors have another dimension.
    """
    if url is None:
        raise DataError("nothing to start warm from: no model is active; name an artifact with --parent.")
    manifest, model = open_artifact(url)
    if manifest.dimension != settings.bootstrap.dimension:
        raise DataError(
            f"{manifest.model_version} has dimension {manifest.dimension}, and bootstrap.dimension is "
            f"{settings.bootstrap.dimension}: a warm start needs the same, leave it out to change the dimension."
        )
    if manifest.policy.feedback != settings.policy.feedback:
        raise DataError(
            f"{manifest.model_version} is of {manifest.policy.feedback} feedback, and policy.feedback is "
            f"{settings.policy.feedback}: a warm start needs the same."
        )
    start = dict(zip(model.item_ids, model.items, strict=True))
    items = {item_id: row[: manifest.dimension] for item_id, row in start.items()}
    return Lineage(bytes.fromhex(manifest.item_key), manifest.model_version, items, start, parent_url=url)


def recipe(settings: Settings, engine: Engine = Engine.NATIVE, *, items_online: bool = False) -> Recipe:
    """What the settings say of training.

    Raises:
        ConfigError: the policy's feedback is not one for what is asked.
    """
    bootstrap, policy = settings.bootstrap, settings.policy
    _expect_feedback(settings, items_online=items_online)
    ridge_items, ridge_bias = bootstrap.ridge_items or policy.ridge, policy.ridge_bias
    decay, reg_users, reg_items = bootstrap.rate_decay, bootstrap.reg_users, bootstrap.reg_items
    training = Training(
        bootstrap.dimension,
        bootstrap.iterations,
        bootstrap.seed,
        policy.ridge,
        policy.rhs,
        steps=bootstrap.steps,
        solver=bootstrap.solver,
        patience=bootstrap.patience,
        threads=bootstrap.threads,
        ridge_items=bootstrap.ridge_items,
        ridge_nu=policy.ridge_nu,
        ridge_alpha0=policy.ridge_alpha0,
    )
    return Recipe(
        training,
        policy,
        settings.engine.tolerance,
        bootstrap.recall_k,
        bootstrap.train_fraction,
        content=bootstrap.content,
        content_ridge=bootstrap.content_ridge,
        windows=bootstrap.windows,
        engine=engine,
        spark_master=bootstrap.spark_master,
        items_online=items_online,
        segment_users=bootstrap.segment_users,
        objective=bootstrap.objective,
        ridges=Ridges(policy.ridge, ridge_items, ridge_bias, bootstrap.ridge_item_bias or ridge_bias),
        descent=Descent(
            bootstrap.rate,
            decay,
            reg_users,
            reg_items,
            bootstrap.reg_biases,
            bootstrap.reg_seen,
            bootstrap.time_bins,
        ),
        ranking=Ranking(bootstrap.rate, decay, reg_users, reg_items, bootstrap.negative_popularity),
    )


def _expect_feedback(settings: Settings, *, items_online: bool) -> None:
    bootstrap, feedback = settings.bootstrap, settings.policy.feedback
    asked = {
        f'bootstrap.objective = "{bootstrap.objective}"': _FEEDBACK.get(bootstrap.objective, feedback),
        "bootstrap.content = true": "implicit" if bootstrap.content else feedback,
        "--items-online": "implicit" if items_online else feedback,
    }
    for what, wanted in asked.items():
        if feedback != wanted:
            raise ConfigError(f'{what} needs policy.feedback = "{wanted}", and that is "{feedback}".')


def make(
    settings: Settings, log: Log, heritage: Lineage, *, now_ms: int, show: Show, engine: Engine = Engine.NATIVE
) -> tuple[Manifest, Model]:
    """Train on the whole log, measure on its newest part, judge; the manifest does not name files yet.

    Raises:
        DataError: a gate needs what is not installed.
    """
    columns, collisions = columns_of(log, settings.policy, heritage.item_key)
    plan, catalogue = recipe(settings, engine), catalogue_of(log.catalogue, heritage.item_key)
    _, metrics, remarks = measure(settings, log, columns, plan, heritage, catalogue, show)
    for remark in remarks:
        print(remark, file=sys.stderr)
    # Not in what was measured above: the parent has seen the events that were foretold.
    turn = Turn(heritage.parent_version, heritage.items) if heritage.parent_version and heritage.items else None
    model, parity_error = fit(columns, plan, show, heritage.start, catalogue, turn)
    metrics["parity_error"] = parity_error
    vectors = Vectors(model.item_ids, model.items, model.user_vectors, np.diff(model.users.history_start) > 0)
    metrics |= of_model(settings, vectors, columns, catalogue, ask_index=settings.gates.min_ann_recall > 0)
    metrics |= kept_of(heritage, model.item_ids, model.users.ids, catalogue)
    gates = held(settings, vectors, metrics, heritage)
    manifest = Manifest(
        model_version=model_version(now_ms, log.sha256),
        dimension=plan.training.dimension,
        algorithm=plan.algorithm,
        created_at=now_ms,
        policy=settings.policy,
        hyperparameters=_hyperparameters(plan) | _of_unobserved(model, settings.policy.unobserved_power),
        training_data_start=int(columns.at.min()),
        training_data_end=int(columns.at.max()),
        cut_offsets=log.cut_offsets,
        cut_time=log.cut_time,
        counts=_counts(log, columns, model, collisions),
        dataset_sha256=log.sha256,
        item_key=heritage.item_key.hex(),
        average_user=model.average_user[: plan.training.dimension].tolist(),
        average_bias=None if model.mean is None else float(model.average_user[-1]),
        global_mean=model.mean,
        segments={name: vector.tolist() for name, vector in model.segments.items()},
        metrics=metrics,
        gates=gates,
        artifact=Artifact("", {}),
        parent_version=heritage.parent_version,
        alignment=turn.done if turn is not None else None,
        code_version=code_version(),
        reference=reference_of(log),
        user_gramian=user_gramian(model) if model.mean is None else None,
        popularity_user=None if model.popularity_user is None else model.popularity_user.tolist(),
    )
    return manifest, model


def _of_unobserved(model: Model, power: float) -> dict[str, int | float | str]:
    """What the workers weigh the unobserved pairs of new items by; a history entry is a pair."""
    pairs = np.unique(model.users.item, return_counts=True)[1]
    return {UNOBSERVED_MEAN: unobserved_mean(pairs, power)} if power else {}


def user_gramian(model: Model) -> list[float] | None:
    """X'X of the users with a history, as the item half-step has it: the upper triangle row by row, nine digits each.

    The workers fold new items in with it. None where it would not fit into a record of the topic of models.
    """
    dimension = model.items.shape[1]
    if dimension > _MOST_GRAMIAN:
        return None
    whole = gramian(model.user_vectors[np.diff(model.users.history_start) > 0])
    return [float(f"{number:.9g}") for number in whole[np.triu_indices(dimension)].tolist()]


def _hyperparameters(plan: Recipe) -> dict[str, int | float | str]:
    training = plan.training
    # MLlib solves each row exactly, and tells no loss to be patient with.
    solving = {"solver": training.solver, "steps": training.steps, "patience": training.patience}
    more: dict[str, Any] = {}
    if plan.policy.feedback == "explicit":
        more |= {"ridge_bias": plan.ridges.user_bias, "ridge_item_bias": plan.ridges.item_bias}
    if plan.objective != "als":
        more |= asdict(plan.descent if plan.objective == "sgd" else plan.ranking)
    return {
        "engine": plan.engine.value,
        "iterations": training.iterations,
        **(solving if plan.engine is Engine.NATIVE else {"solver": "mllib"}),
        "seed": training.seed,
        "ridge": training.ridge,
        "ridge_items": training.ridge_items,
        "rhs": training.rhs,
        "train_fraction": plan.train_fraction,
        "content": int(plan.content),
        "content_ridge": plan.content_ridge,
        "segment_users": plan.segment_users,
        "solver_tolerance": plan.tolerance,
        **more,
    }


def _counts(log: Log, columns: Columns, model: Model, collisions: int) -> dict[str, int]:
    """Sizes of the artifact's files, and every outcome of the records read."""
    counts = {
        "events": len(columns),
        "users": len(model.users.ids),
        "items": len(model.item_ids),
        "projected_items": model.projected,
        "trained_items": len(model.item_ids) - model.projected,
        "trained_users": int(np.count_nonzero(np.diff(model.users.history_start))),
        "interactions": len(model.users.item),
        "keys": len(model.users.request),
        "records": log.records,
        "item_hash_collisions": collisions,
    }
    for (outcome, reason), count in sorted(log.outcomes.items(), key=str):
        counts[f"{outcome}:{reason}" if reason else str(outcome)] = count
    return counts


def model_version(now_ms: int, dataset_sha256: str) -> str:
    """A name that sorts by time and says which data: 20261121T034423Z-4edb74e2."""
    moment = datetime.fromtimestamp(now_ms / 1000, UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{dataset_sha256[:8]}"


def code_version() -> str:
    """The installed package's version."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "not installed"
