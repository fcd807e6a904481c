"""``python -m bootstrap``: from events to a model generation that the workers serve.

Exit codes: 0 done, 1 the check said no, 2 configuration, 3 broker, 4 data.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from threadpoolctl import threadpool_limits

from streamer.errors import CheckFailed, FactorsError

if TYPE_CHECKING:
    from bootstrap.job import Source
    from bootstrap.model import Model
    from bootstrap.read import Log
    from schemas.records import Manifest
    from streamer.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train item and user factors by batch ALS and publish them as a model generation.",
)


class Engine(StrEnum):
    """What trains."""

    NATIVE = "native"


class Wanted(StrEnum):
    """What a search raises."""

    NDCG = "ndcg"
    RECALL = "recall"
    MAP = "map"


_JOURNAL = Path("artifacts/search.journal")

Events = Annotated[
    str | None, typer.Option("--events", help="NDJSON file, or - for stdin; without it the interactions topic.")
]
Items = Annotated[
    str | None,
    typer.Option("--items", help="Catalogue as NDJSON: withdrawn and banned items are left out. Default: its topic."),
]
Parent = Annotated[
    str | None, typer.Option("--parent", help="Artifact of the generation before: its item key is kept.")
]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file; FACTORS_* variables go over it.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Warm = Annotated[
    bool, typer.Option("--warm-start", help="Begin with the item vectors of --parent, or else of the active model.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything but write.")]
EngineOption = Annotated[Engine, typer.Option("--engine", help="What trains the factors.")]
NoActivate = Annotated[
    bool,
    typer.Option("--no-activate", help="Announce the generation beside the active one, in a topic of its own."),
]


@app.command()
def fit(
    events: Events = None,
    items: Items = None,
    parent: Parent = None,
    warm_start: Warm = False,
    config: Config = None,
    as_json: Json = False,
    dry_run: DryRun = False,
    engine: EngineOption = Engine.NATIVE,
) -> None:
    """Train on events and write the artifact folder."""
    settings = _settings(config)
    source = _source(events, items, parent, warm_start=warm_start)
    manifest, _, log = _train(settings, source, write=not dry_run, ask_topics=events is None)
    _print_generation(manifest, log, as_json=as_json)
    _hold_to_gates(manifest)


@app.command()
def evaluate(
    events: Events = None,
    items: Items = None,
    config: Config = None,
    as_json: Json = False,
    engine: EngineOption = Engine.NATIVE,
) -> None:
    """Train on the older events and foretell the newer ones; writes nothing."""
    from bootstrap.columns import columns_of
    from bootstrap.fit import score
    from bootstrap.job import read, recipe
    from bootstrap.progress import shown
    from streamer.events.hashes import ITEM_KEY_BYTES

    settings = _settings(config)
    log = read(settings, _source(events, items, None), _now_ms())
    # The key only names items inside this one run.
    columns, _ = columns_of(log, settings.policy, bytes(ITEM_KEY_BYTES))
    metrics = score(columns, recipe(settings), shown)
    if as_json:
        _print_json({"metrics": metrics, "outcomes": _outcomes(log)})
    else:
        _print_metrics(metrics)


@app.command()
def search(
    events: Events = None,
    items: Items = None,
    config: Config = None,
    as_json: Json = False,
    trials: Annotated[
        int, typer.Option(min=1, help="End when so many were tried, those of the journal included.")
    ] = 50,
    journal: Annotated[Path, typer.Option(help="What was tried; a search with the same file goes on.")] = _JOURNAL,
    metric: Annotated[Wanted, typer.Option(help="What to raise.")] = Wanted.NDCG,
    seed: Annotated[int, typer.Option(min=0, help="Of what is proposed.")] = 0,
    write: Annotated[Path | None, typer.Option(help="Put the best into this configuration file.")] = None,
) -> None:
    """Search for hyper-parameters on a temporal split of the events given; writes no model."""
    from bootstrap import search as searching
    from bootstrap.columns import columns_of
    from bootstrap.job import read, recipe
    from bootstrap.progress import shown
    from streamer.events.hashes import ITEM_KEY_BYTES

    settings = _settings(config)
    log = read(settings, _source(events, items, None), _now_ms())
    columns, _ = columns_of(log, settings.policy, bytes(ITEM_KEY_BYTES))
    study = searching.search(
        columns, recipe(settings), trials=trials, journal=journal, seed=seed, metric=metric.value, show=shown
    )
    found = searching.settings_found(study.best_params)
    if write is not None:
        searching.write_settings(write, found)
    if as_json:
        _print_json({"best": found, metric.value: study.best_value, "trials": len(study.trials)})
        return
    print(f"best {metric.value} of {len(study.trials)} trials: {study.best_value:.4f}")
    for section, values in found.items():
        print(
            "\n".join([f"[{section}]", *(f"{name} = {orjson.dumps(value).decode()}" for name, value in values.items())])
        )
    print(f"written to {write}" if write else "write them into a file with --write FILE", file=sys.stderr)


@app.command()
def publish(
    artifact: Annotated[str, typer.Argument(help="Artifact folder, any fsspec URL.")],
    no_activate: NoActivate = False,
    config: Config = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Publish an artifact to the topics, if it passed its gates."""
    from bootstrap.artifact import open_artifact

    settings = _settings(config)
    manifest, model = open_artifact(artifact)
    _publish(settings, manifest, model, activate=not no_activate, dry_run=dry_run, as_json=as_json)


@app.command()
def run(
    events: Events = None,
    items: Items = None,
    parent: Parent = None,
    warm_start: Warm = False,
    no_activate: NoActivate = False,
    config: Config = None,
    as_json: Json = False,
    dry_run: DryRun = False,
    engine: EngineOption = Engine.NATIVE,
) -> None:
    """Read, train, evaluate, write the artifact and publish it."""
    settings = _settings(config)
    _expect_free_place(settings, activate=not no_activate)
    source = _source(events, items, parent, warm_start=warm_start)
    manifest, model, log = _train(settings, source, write=not dry_run, ask_topics=True)
    if not as_json:
        _print_generation(manifest, log, as_json=False)
    _hold_to_gates(manifest)
    _publish(settings, manifest, model, activate=not no_activate, dry_run=dry_run, as_json=as_json)


def _settings(config: Path | None) -> Settings:
    from streamer.configuration import CONFIG_VARIABLE
    from streamer.settings import load_settings

    if config is None and (named := os.environ.get(CONFIG_VARIABLE)):
        config = Path(named)
    return load_settings(config)


def _source(events: str | None, items: str | None, parent: str | None, *, warm_start: bool = False) -> Source:
    from bootstrap.job import Source

    return Source(events, items, parent, warm_start)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _expect_free_place(settings: Settings, *, activate: bool) -> None:
    """Ask the topics before the training, not after it."""
    from bootstrap.served import expect_place

    expect_place(settings, activate=activate)


def _train(settings: Settings, source: Source, *, write: bool, ask_topics: bool) -> tuple[Manifest, Model, Log]:
    from bootstrap import artifact, job
    from bootstrap.progress import shown

    now_ms = _now_ms()
    log = job.read(settings, source, now_ms)
    heritage = job.lineage(settings, source, os.urandom, ask_topics=ask_topics)
    manifest, model = job.make(settings, log, heritage, now_ms=now_ms, show=shown)
    if write:
        manifest = artifact.write(settings.bootstrap.artifacts, manifest, model)
    return manifest, model, log


def _hold_to_gates(manifest: Manifest) -> None:
    from bootstrap.gates import failures

    failed = failures(manifest.gates)
    if failed:
        raise CheckFailed(f"{manifest.model_version} is not fit to be published: {'; '.join(failed)}.")


def _publish(
    settings: Settings, manifest: Manifest, model: Model, *, activate: bool, dry_run: bool, as_json: bool
) -> None:
    from bootstrap import publish as publishing
    from bootstrap.progress import shown
    from bootstrap.served import check

    version = manifest.model_version
    if dry_run:
        check(settings, manifest, activate=activate)
        if as_json:
            _print_json({"model_version": version, "activated": False, "records": {}, "metrics": manifest.metrics})
        print(f"{version} could be published; nothing was written.", file=sys.stderr)
        return
    total = len(model.item_ids) + (2 * len(model.users.ids) + 1 if activate else 0) + 1
    with shown("publishing", total) as say:
        done = publishing.publish(
            settings, manifest, model, activate=activate, now_ms=_now_ms(), on_records=lambda sent: say(sent, "")
        )
    if as_json:
        _print_json(
            {
                "model_version": version,
                "activated": done.activated,
                "item_topic": done.item_topic,
                "records": done.records,
                "artifact": manifest.artifact.uri,
                "metrics": manifest.metrics,
            }
        )
        return
    for topic, count in done.records.items():
        print(f"{count:>10,} records to {topic}")
    print(f"{version} is {'active' if activate else f'announced: `streamer models activate {version}` serves it'}")


def _print_generation(manifest: Manifest, log: Log, *, as_json: bool) -> None:
    import msgspec

    from bootstrap.job import told

    if as_json:
        _print_json({"manifest": msgspec.to_builtins(manifest), "outcomes": _outcomes(log)})
        return
    counts = manifest.counts
    print(f"{log.records:,} records: {told(log)}")
    print(
        f"{manifest.model_version}: {counts['users']:,} users, {counts['items']:,} items, "
        f"{counts['interactions']:,} history entries, dimension {manifest.dimension}"
    )
    _print_metrics(manifest.metrics)
    for gate in manifest.gates:
        print(f"{'passed' if gate.passed else 'FAILED':>10} {gate.name}: {gate.value:.6g} (bound {gate.bound:.6g})")
    if manifest.artifact.uri:
        print(f"artifact {manifest.artifact.uri}")


def _print_metrics(metrics: dict[str, float]) -> None:
    if "rmse" in metrics:
        _print_errors(metrics)
        return
    if "recall" not in metrics:
        print("too few events to evaluate")
        return
    k = int(metrics["k"])
    heads = (f"Recall@{k}", f"NDCG@{k}", f"MAP@{k}", "hit rate", "known users", "new users")
    print(
        f"foretold, of {int(metrics['scored_events']):,} later events".rjust(32)
        + "".join(f"{head:>12}" for head in heads)
    )
    names = ("recall", "ndcg", "map", "hit_rate", "known_users_recall", "new_users_recall")
    for name, prefix in (("folded in, as the stream does", ""), ("frozen", "frozen_"), ("popularity", "popularity_")):
        print(f"{name:>32}" + "".join(f"{metrics[prefix + metric]:12.4f}" for metric in names))
    print(
        f"lists of {k}: coverage {metrics['coverage']:.3f}, novelty {metrics['novelty']:.2f} bits, share of the most "
        f"popular hundredth {metrics['top_share']:.3f}; the model knows the item of {metrics['known_item_events']:.1%} "
        f"and the user of {metrics['known_user_events']:.1%} of the events"
    )


def _print_errors(metrics: dict[str, float]) -> None:
    print(
        f"foretold, of {int(metrics['scored_events']):,} later ratings".rjust(32)
        + "".join(f"{head:>14}" for head in ("RMSE", "known users", "new users"))
    )
    names = (("solved anew, as the stream does", ""), ("frozen", "frozen_"), ("biases, solved anew", "biases_"))
    for name, prefix in (*names, ("mean", "mean_")):
        values = [metrics[f"{prefix}{whose}rmse"] for whose in ("", "known_users_", "new_users_")]
        print(f"{name:>32}" + "".join(f"{value:14.4f}" for value in values))


def _outcomes(log: Log) -> list[dict[str, Any]]:
    return [
        {"outcome": outcome, "reason": reason or "", "count": count}
        for (outcome, reason), count in log.outcomes.most_common()
    ]


def _print_json(value: object) -> None:
    print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def main() -> None:
    """The command; what ends it is one sentence and an exit code, never a stack trace."""
    # The client logs every failed attempt to connect; the sentence says it once.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    # Millions of events in lists: looking through them for cycles, again and again, doubles the time to read them.
    gc.disable()
    try:
        with threadpool_limits(limits=1):
            app()
    except FactorsError as problem:
        print(problem, file=sys.stderr)
        raise SystemExit(problem.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        gc.enable()


if __name__ == "__main__":
    main()
