"""`streamer config`: is the configuration right, and what does it say."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr

from streamer.commands.shared import ConfigOption, JsonOption, config_file, dump, say, settings_and_origins, table
from streamer.configuration import CONFIG_VARIABLE, Origins
from streamer.errors import ConfigError
from streamer.settings import Settings
from streamer.vocabulary import Vocabulary

_USUAL = Path("factors.toml")

app = typer.Typer(help="Check or show the configuration.", no_args_is_help=True)


@app.command()
def check(config: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """List every mistake; nothing is contacted. Exit code 2 if there is one."""
    file = config_file(config)
    try:
        _, origins = settings_and_origins(config)
    except ConfigError as problem:
        if as_json:
            dump({"ok": False, "mistakes": [_mistake(mistake) for mistake in problem.mistakes]})
        raise
    if as_json:
        dump({"ok": True, "mistakes": [], "file": None if file is None else str(file)})
        return
    variables = sum(place.startswith("environment") for place in origins.values())
    say(f"The configuration is right: {file or 'no file'}, {variables} from the environment, defaults for the rest.")
    if file is None and _USUAL.exists():
        say(f"{_USUAL} is here and was not read: name it with --config, or in {CONFIG_VARIABLE}.")


@app.command()
def show(
    config: ConfigOption = None,
    *,
    origin: Annotated[bool, typer.Option("--origin", help="Show where each value came from.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show every setting as it counts; secrets stay hidden."""
    settings, origins = settings_and_origins(config)
    rows = list(_rows(settings, origins))
    if as_json:
        dump({key: {"value": value, "origin": place} if origin else value for key, value, place in rows})
    elif origin:
        table(("setting", "value", "origin"), ((key, _text(value), place) for key, value, place in rows))
    else:
        table(("setting", "value"), ((key, _text(value)) for key, value, _ in rows))


def _rows(settings: Settings, origins: Origins) -> "list[tuple[str, Any, str]]":
    words, rows = Vocabulary(Settings), []
    for path in words.leaves():
        value: Any = settings
        for key in path:
            value = value[key] if isinstance(value, dict) else getattr(value, key)
        if isinstance(value, SecretStr):
            value = str(value)
        elif isinstance(value, str):
            value = words.show(path, value).strip('"')
        key = ".".join(path)
        rows.append((key, value if isinstance(value, int | float | None) else str(value), origins.get(key, "default")))
    return rows


def _text(value: object) -> str:
    # As it was written: a tolerance of 1e-06 must not come out as another number.
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _mistake(mistake: Any) -> dict[str, Any]:
    return {
        "source": mistake.source,
        "key": mistake.key,
        "value": mistake.value,
        "message": mistake.message,
    }
