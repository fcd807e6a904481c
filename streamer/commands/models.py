"""`streamer models`: the generations that were published, and which of them is served."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.records import Manifest
from streamer.commands.shared import ConfigOption, JsonOption, dump, say, settings_of, table
from streamer.errors import CheckFailed, ConfigError
from streamer.settings import Settings

if TYPE_CHECKING:
    from kafka import KafkaConsumer

    from streamer.commands.generation import Generations

app = typer.Typer(help="List, activate or roll back model generations.", no_args_is_help=True)


@app.command("list")
def list_models(config: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """List the published generations, oldest first."""
    from streamer.commands.cluster import consuming
    from streamer.commands.generation import generations

    settings = settings_of(config)
    with consuming(settings) as consumer:
        known = generations(consumer, settings)
    active = known.active.model_version if known.active else None
    rows = [_row(manifest, active) for manifest in known.manifests.values()]
    if as_json:
        for row in rows:
            dump(row)
        return
    if not rows:
        say("No model is published yet: run `python -m bootstrap run`.")
        return
    table(tuple(rows[0]), (list(row.values()) for row in rows))


def _row(manifest: Manifest, active: str | None) -> dict[str, object]:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(manifest.created_at / 1000))
    return {
        "model_version": manifest.model_version,
        "active": "yes" if manifest.model_version == active else "",
        "created": created,
        "dimension": manifest.dimension,
        "users": manifest.counts.get("users", 0),
        "items": manifest.counts.get("items", 0),
        "parent": manifest.parent_version or "",
        "gates": "passed" if all(gate.passed for gate in manifest.gates) else "failed",
    }


@app.command()
def activate(
    model_version: Annotated[str, typer.Argument(metavar="VERSION")],
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a published generation the one that is served: running workers load it and cut over."""
    settings = settings_of(config)
    _activate(settings, lambda known: model_version, as_json=as_json)


@app.command()
def rollback(config: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """Activate the parent of the active generation, from its trained vectors and the kept histories."""
    settings = settings_of(config)

    def parent(known: "Generations") -> str:
        manifest, _ = known.served()
        if manifest.parent_version is None:
            raise CheckFailed(f"{manifest.model_version} has no parent: name one with `streamer models activate`.")
        return manifest.parent_version

    _activate(settings, parent, as_json=as_json)


@app.command()
def canary(
    model_version: Annotated[str | None, typer.Argument(metavar="VERSION")] = None,
    config: ConfigOption = None,
    *,
    fraction: Annotated[float, typer.Option(min=0.0001, max=0.9999, help="Share of the users, by hash.")] = 0.1,
    end: Annotated[bool, typer.Option("--end", help="Serve everybody with the active model again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Try a published generation on some of the users; a rule promotes it or gives it up ([canary])."""
    from schemas.commands import CANARY_KEY
    from streamer.commands.cluster import consuming, newest_of, producing
    from streamer.commands.generation import generations
    from streamer.events.activation import canary as tried
    from streamer.events.activation import end_of_canary

    settings = settings_of(config)
    if (model_version is None) != end:
        raise typer.BadParameter("name a version, or --end", param_hint="VERSION")
    with consuming(settings) as consumer:
        known = generations(consumer, settings)
        active, _ = known.served()
        records = end_of_canary()
        if end and newest_of(consumer, settings.topic("control"), CANARY_KEY.decode()) is None:
            raise CheckFailed(f"no canary is running: everybody is served with {active.model_version}.")
        if model_version is not None:
            item_topic = _place_of(consumer, settings, model_version, known)
            if item_topic == settings.topic("item-factors"):
                raise CheckFailed(f"{model_version} has no topic of its own: only a later generation can be tried.")
            _check_judged(settings, active)
            records = tried(model_version, time.time_ns() // 1_000_000, item_topic, fraction)
    with producing(settings) as producer:
        for key, command in records:
            producer.send(settings.topic("control"), key, command)
    if as_json:
        dump({"active": active.model_version, "canary": model_version, "fraction": fraction if model_version else 0.0})
    elif model_version is None:
        say(f"Everybody is served with {active.model_version} again.")
    else:
        say(f"{model_version} serves {fraction:.2%} of the users, {active.model_version} the others.")


def _check_judged(settings: Settings, active: Manifest) -> None:
    """Can workers of this configuration say what becomes of a trial?

    Raises:
        ConfigError: they are to, and can't: it would go on for ever.
    """
    if not settings.canary.auto:
        return
    problem = ""
    if active.policy.feedback != "implicit":
        problem = f"{active.model_version} is of {active.policy.feedback} feedback, which workers don't judge"
    elif not settings.quality.sample:
        problem = "quality.sample = 0: no event is judged; set it above 0"
    if problem:
        raise ConfigError(
            f"canary.auto = true, and nothing would decide: {problem}, or set canary.auto = false "
            "(FACTORS_CANARY__AUTO=false) and decide by `streamer models activate` or `streamer models canary --end`."
        )


def _place_of(consumer: "KafkaConsumer", settings: Settings, version: str, known: "Generations") -> str:
    """The topic of a published generation that is not active.

    Raises:
        CheckFailed: it is not published, is active already, is of other feedback than what is active, or no topic holds
            its item vectors.
    """
    manifest = known.manifests.get(version)
    if manifest is None:
        names = ", ".join(known.manifests) or "none"
        raise CheckFailed(f"{version} is not in {settings.topic('models')}; published are: {names}.")
    if known.active is not None and known.active.model_version == version:
        raise CheckFailed(f"{version} is active already.")
    served = known.manifests.get(known.active.model_version) if known.active else None
    if served is not None and served.policy.feedback != manifest.policy.feedback:
        raise CheckFailed(
            f"{version} is of {manifest.policy.feedback} feedback, the active {served.model_version} of "
            f"{served.policy.feedback}: the kept histories mean something else."
        )
    return _item_topic(consumer, settings, manifest, known)


def _activate(settings: Settings, choose: "Callable[[Generations], str]", *, as_json: bool) -> None:
    from streamer.commands.cluster import consuming, producing
    from streamer.commands.generation import generations
    from streamer.events.activation import activation, end_of_canary

    with consuming(settings) as consumer:
        known = generations(consumer, settings)
        version = choose(known)
        item_topic = _place_of(consumer, settings, version, known)
    at = time.time_ns() // 1_000_000
    with producing(settings) as producer:
        for key, command in activation(version, at, item_topic, settings.topic("item-factors")) + end_of_canary():
            producer.send(settings.topic("control"), key, command)
    before = known.active.model_version if known.active else None
    if as_json:
        dump({"active": version, "before": before, "item_topic": item_topic})
    else:
        say(f"{version} is active, {before or 'nothing'} was. Running workers load it and cut over; /info says when.")


def _item_topic(consumer: "KafkaConsumer", settings: Settings, manifest: Manifest, known: "Generations") -> str:
    """The topic with this generation's item vectors as they were trained: its own, or for a first one the common one.

    Raises:
        CheckFailed: none holds any; a worker that served it would stop at once.
    """
    from streamer.commands.cluster import places_of, read_to_end
    from streamer.reader import decode_factor

    common = settings.topic("item-factors")
    # Once another generation was served, the common topic holds what the stream made, of a generation or of two.
    untouched = known.active is None or known.active.item_topic == common
    candidates = [f"{common}.{manifest.model_version}", *([common] if untouched else [])]
    present = consumer.topics()
    for topic in candidates:
        if topic not in present:
            continue
        for record in read_to_end(consumer, places_of(consumer, topic)):
            if record.value is None:
                continue
            if decode_factor(record, "item").model_version == manifest.model_version:
                return topic
    raise CheckFailed(
        f"no topic holds item vectors of {manifest.model_version}: publish it with `python -m bootstrap publish`."
    )
