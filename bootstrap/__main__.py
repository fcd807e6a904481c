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

from bootstrap.engine import Engine, expect_usable
from streamer.errors import CheckFailed, FactorsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bootstrap.job import Source
    from bootstrap.model import Model
    from bootstrap.quality import Judged
    from bootstrap.read import Log
    from schemas.records import Gate, Manifest
    from streamer.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train item and user factors by batch ALS and publish them as a model generation.",
)


class Chosen:
    """What was named before the command: `bootstrap --config FILE run`."""

    config: Path | None = None


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
Report = Annotated[Path | None, typer.Option("--report", help="Write what was found as one HTML file.")]
Warm = Annotated[
    bool, typer.Option("--warm-start", help="Begin with the item vectors of --parent, or else of the active model.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything but write.")]
EngineOption = Annotated[Engine, typer.Option("--engine", help="What trains the factors.")]
Activate = Annotated[
    bool,
    typer.Option("--activate/--no-activate", help="Serve it at once, or announce it and leave the active one be."),
]
Every = Annotated[str | None, typer.Option("--every", help="Train again and again: 90s, 15m, 6h, 1d.")]
OnDrift = Annotated[bool, typer.Option("--on-drift", help="Train when a worker asks for it; goes with --every too.")]
MinInterval = Annotated[
    str | None, typer.Option("--min-interval", help="With --on-drift: at least so long between two trainings. [10m]")
]
Rounds = Annotated[int | None, typer.Option("--rounds", min=1, help="End after so many trainings.")]


@app.callback()
def _choose(config: Config = None) -> None:
    Chosen.config = config


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
    expect_usable(engine, settings, warm_start=warm_start)
    source = _source(events, items, parent, warm_start=warm_start)
    manifest, _, log = _train(settings, source, engine, write=not dry_run, ask_topics=events is None)
    _print_generation(manifest, log, as_json=as_json)
    _hold_to_gates(manifest.model_version, manifest.gates, manifest.metrics)


@app.command()
def evaluate(
    events: Events = None,
    items: Items = None,
    parent: Parent = None,
    report: Report = None,
    config: Config = None,
    as_json: Json = False,
    items_online: Annotated[
        bool, typer.Option("--items-online", help="Foretell once more with items that move, one event at a time.")
    ] = False,
    engine: EngineOption = Engine.NATIVE,
) -> None:
    """Train on the older events and foretell the newer ones; writes nothing but the report asked for."""
    from bootstrap import job, tables
    from bootstrap.progress import shown
    from bootstrap.quality import judged

    settings = _settings(config)
    expect_usable(engine, settings, warm_start=False)
    plan = job.recipe(settings, engine, items_online=items_online)
    if report is not None:
        _expect_report(report, settings)
    source, now_ms = _source(events, items, parent), _now_ms()
    log = job.read(settings, source, now_ms)
    heritage = job.lineage(settings, source, bytes, ask_topics=events is None)
    found = judged(settings, log, plan, heritage, shown)
    if report is not None:
        _write_report(report, found, source.name, log, now_ms)
    if as_json:
        _print_json(_judged_json(found, log))
    else:
        print(tables.records(log))
        tables.print_metrics(found.metrics)
        tables.print_gates(found.gates, found.metrics)
        for remark in found.remarks:
            print(remark, file=sys.stderr)
    _hold_to_gates("this model", found.gates, found.metrics)


@app.command()
def search(
    events: Events = None,
    items: Items = None,
    config: Config = None,
    as_json: Json = False,
    trials: Annotated[
        int, typer.Option(min=1, help="End when so many were tried, those of this search in the journal included.")
    ] = 50,
    journal: Annotated[
        Path, typer.Option(help="What was tried; the same search of the same events goes on.")
    ] = _JOURNAL,
    metric: Annotated[Wanted, typer.Option(help="What to raise.")] = Wanted.NDCG,
    seed: Annotated[int, typer.Option(min=0, help="Of what is proposed.")] = 0,
    write: Annotated[Path | None, typer.Option(help="Put the best into this configuration file.")] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Search the session, growing ridges and the like, too.")] = False,
    keys: Annotated[
        str, typer.Option("--keys", metavar="KEY,…", help="Search exactly these keys of the configuration.")
    ] = "",
) -> None:
    """Search for hyper-parameters on a temporal split of the events given; writes no model."""
    from bootstrap import search as searching
    from bootstrap.columns import columns_of
    from bootstrap.job import read, recipe
    from bootstrap.keys import settings_found
    from bootstrap.progress import shown
    from bootstrap.tables import records
    from streamer.events.hashes import ITEM_KEY_BYTES

    settings = _settings(config)
    if settings.policy.feedback == "explicit":
        raise typer.BadParameter(
            'it looks at rankings, and policy.feedback is "explicit": ratings are not ranked', param_hint="search"
        )
    log = read(settings, _source(events, items, None), _now_ms())
    print(records(log), file=sys.stderr)
    columns, _ = columns_of(log, settings.policy, bytes(ITEM_KEY_BYTES))
    study = searching.search(
        columns,
        recipe(settings),
        trials=trials,
        journal=journal,
        seed=seed,
        metric=metric.value,
        show=shown,
        wide=wide,
        keys=tuple(name.strip() for name in keys.split(",") if name.strip()),
    )
    found = searching.as_run(settings_found(study.best_params), settings)
    if write is not None:
        searching.write_settings(write, found)
    if as_json:
        _print_json({"best": found, metric.value: study.best_value, "trials": len(study.trials)})
        return
    print(f"best {metric.value} of {len(study.trials)} trials: {study.best_value:.4f}")
    print(searching.as_toml(found), end="")
    print(f"written to {write}" if write else "write them into a file with --write FILE", file=sys.stderr)


@app.command()
def publish(
    artifact: Annotated[str, typer.Argument(help="Artifact folder, any fsspec URL.")],
    activate: Activate = True,
    config: Config = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Publish an artifact to the topics, if it passed its gates."""
    from bootstrap.artifact import open_artifact

    settings = _settings(config)
    manifest, model = open_artifact(artifact)
    _publish(settings, manifest, model, activate=activate, dry_run=dry_run, as_json=as_json)


@app.command()
def run(
    events: Events = None,
    items: Items = None,
    parent: Parent = None,
    warm_start: Warm = False,
    activate: Activate = True,
    every: Every = None,
    on_drift: OnDrift = False,
    min_interval: MinInterval = None,
    rounds: Rounds = None,
    config: Config = None,
    as_json: Json = False,
    dry_run: DryRun = False,
    engine: EngineOption = Engine.NATIVE,
) -> None:
    """Read, train, evaluate, write the artifact and publish it; with --every or --on-drift until it is stopped."""
    if min_interval is not None and not on_drift:
        raise typer.BadParameter("only --on-drift has one; --every is an interval already", param_hint="--min-interval")
    if rounds is not None and every is None and not on_drift:
        raise typer.BadParameter("goes with --every or --on-drift; without them there is one", param_hint="--rounds")
    settings = _settings(config)
    expect_usable(engine, settings, warm_start=warm_start)
    source = _source(events, items, parent, warm_start=warm_start)

    def once() -> None:
        _expect_topics(settings)
        manifest, model, log = _train(settings, source, engine, write=not dry_run, ask_topics=True)
        if not as_json:
            _print_generation(manifest, log, as_json=False)
        _hold_to_gates(manifest.model_version, manifest.gates, manifest.metrics)
        _publish(settings, manifest, model, activate=activate, dry_run=dry_run, as_json=as_json)

    if every is None and not on_drift:
        once()
        return
    if events is not None or parent is not None:
        raise typer.BadParameter(
            "--every and --on-drift read the topic and go on from the active generation",
            param_hint="--events, --parent",
        )
    _repeat(settings, once, every=every, on_drift=on_drift, min_interval=min_interval or "10m", rounds=rounds)


def _repeat(
    settings: Settings,
    once: Callable[[], None],
    *,
    every: str | None,
    on_drift: bool,
    min_interval: str,
    rounds: int | None,
) -> None:
    """Round after round."""
    from bootstrap.loop import Plan, ending_cleanly, repeat, seconds_of, wish

    try:
        seconds = [None if text is None else seconds_of(text) for text in (every, min_interval)]
    except ValueError as problem:
        raise typer.BadParameter(str(problem), param_hint="--every, --min-interval") from None
    plan = Plan(seconds[0], on_drift, seconds[1] or 0.0, rounds)

    def train() -> None:
        once()
        gc.collect()  # the collector is off while events are read, and this process stays

    with ending_cleanly():
        if code := repeat(plan, train, lambda: wish(settings)):
            raise SystemExit(code)


def _settings(config: Path | None) -> Settings:
    from streamer.configuration import CONFIG_VARIABLE
    from streamer.settings import load_settings

    config = config or Chosen.config
    if config is None and (named := os.environ.get(CONFIG_VARIABLE)):
        config = Path(named)
    return load_settings(config)


def _source(events: str | None, items: str | None, parent: str | None, *, warm_start: bool = False) -> Source:
    from bootstrap.job import Source

    return Source(events, items, parent, warm_start)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _expect_topics(settings: Settings) -> None:
    """Ask for the topics, and whether they can take such a model, before the training, not after it."""
    from bootstrap.served import expect_feedback, expect_topics

    expect_feedback(expect_topics(settings)[1], "what is to be trained", settings.policy.feedback)


def _expect_report(path: Path, settings: Settings) -> None:
    """Whether there can be one there, before the training, not after it.

    Raises:
        DataError: the file cannot be written.
    """
    from streamer.errors import DataError

    if settings.policy.feedback == "explicit":
        raise typer.BadParameter(
            'it is one of rankings, and policy.feedback is "explicit": ratings have none', param_hint="--report"
        )
    place = path if path.exists() else path.parent
    why = ""
    if path.is_dir():
        why = "it is a folder"
    elif not place.exists():
        why = f"there is no folder {path.parent}"
    elif not os.access(place, os.W_OK):
        why = "no right to write there"
    if why:
        raise DataError(f"{path} cannot be written: {why}.")


def _train(
    settings: Settings, source: Source, engine: Engine, *, write: bool, ask_topics: bool
) -> tuple[Manifest, Model, Log]:
    from bootstrap import artifact, job
    from bootstrap.progress import shown

    now_ms = _now_ms()
    log = job.read(settings, source, now_ms)
    heritage = job.lineage(settings, source, os.urandom, ask_topics=ask_topics)
    manifest, model = job.make(settings, log, heritage, now_ms=now_ms, show=shown, engine=engine)
    if write:
        manifest = artifact.write(settings.bootstrap.artifacts, manifest, model)
    return manifest, model, log


def _hold_to_gates(what: str, gates: list[Gate], metrics: dict[str, float]) -> None:
    from bootstrap.gates import failures

    failed = failures(gates, metrics)
    if failed:
        raise CheckFailed(f"{what} is not fit to be published: {'; '.join(failed)}.")


def _publish(
    settings: Settings, manifest: Manifest, model: Model, *, activate: bool, dry_run: bool, as_json: bool
) -> None:
    from bootstrap import publish as publishing
    from bootstrap.progress import shown
    from bootstrap.served import check

    version = manifest.model_version
    if dry_run:
        check(settings, manifest)
        if as_json:
            _print_json({"model_version": version, "activated": False, "records": {}, "metrics": manifest.metrics})
        print(f"{version} could be published; nothing was written.", file=sys.stderr)
        return
    total = 2 * len(model.item_ids) + 2 * len(model.users.ids)
    with shown("publishing", total) as say:
        done = publishing.publish(
            settings,
            manifest,
            model,
            activate=activate,
            now_ms=_now_ms(),
            on_records=lambda sent: say(sent, ""),
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
    print(
        f"{version} is {'active' if done.activated else f'announced: `streamer models activate {version}` serves it'}"
    )


def _print_generation(manifest: Manifest, log: Log, *, as_json: bool) -> None:
    import msgspec

    from bootstrap import tables

    if as_json:
        _print_json({"manifest": msgspec.to_builtins(manifest), "outcomes": _outcomes(log)})
        return
    counts = manifest.counts
    print(tables.records(log))
    print(
        f"{manifest.model_version}: {counts['users']:,} users, {counts['items']:,} items, "
        f"{counts['interactions']:,} history entries, dimension {manifest.dimension}"
    )
    tables.print_metrics(manifest.metrics)
    tables.print_gates(manifest.gates, manifest.metrics)
    if manifest.artifact.uri:
        print(f"artifact {manifest.artifact.uri}")


def _write_report(path: Path, found: Judged, source: str, log: Log, now_ms: int) -> None:
    from bootstrap.job import told
    from bootstrap.report import About, report
    from streamer.errors import DataError

    if not found.metrics.get("scored_events"):
        raise DataError(f"nothing to report: too few events of {source} to foretell any.")
    try:
        path.write_text(report(found, About(source, log.records, told(log), now_ms)), "utf-8")
    except OSError as problem:
        raise DataError(f"{path} cannot be written: {problem.strerror or problem}.") from None
    print(f"report written to {path}", file=sys.stderr)


def _judged_json(found: Judged, log: Log) -> dict[str, Any]:
    import msgspec

    parts: dict[str, Any] = {}
    if found.examined is not None:
        parts = {"windows": found.examined.windows, "segments": found.examined.segments}
    parts |= {"metrics": found.metrics, "gates": found.gates, "remarks": found.remarks}
    told: dict[str, Any] = msgspec.to_builtins(parts)
    return {**told, "outcomes": _outcomes(log)}


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
