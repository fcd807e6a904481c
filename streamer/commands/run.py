"""`streamer run`: the worker."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from streamer.commands.shared import ConfigOption, settings_of


def run(
    config: ConfigOption = None,
    *,
    role: Annotated[
        Literal["users", "items", "all"], typer.Option(help="Whose vectors this worker keeps fresh.")
    ] = "all",
    items: Annotated[Path | None, typer.Option(metavar="FILE", help="Publish this catalogue (NDJSON) first.")] = None,
) -> None:
    """Keep vectors fresh until SIGINT or SIGTERM."""
    settings = settings_of(config)
    from streamer.knock import knock
    from streamer.telemetry.logs import setup_logging

    setup_logging(settings.log.level, settings.log.format)
    if items is not None:
        from streamer.commands.items import publish_catalogue, read_catalogue

        publish_catalogue(settings, read_catalogue(str(items)))
    else:
        # Says so at once when there is no broker, and costs a restart nothing.
        knock(settings.kafka.bootstrap_servers)
    from streamer.app import run_worker

    run_worker(settings, role)
