"""What trains the item vectors, and what of the settings each engine can follow."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from streamer.errors import ConfigError, Mistake

if TYPE_CHECKING:
    from streamer.settings import Settings


class Engine(StrEnum):
    """What trains."""

    NATIVE = "native"
    SPARK = "spark"


def expect_usable(engine: Engine, settings: Settings, *, warm_start: bool) -> None:
    """Refuse before anything is read what this engine would have to ignore.

    Raises:
        ConfigError: MLlib's ALS has b = sum c v, tells no loss and starts at random; or Spark or its Java is missing.
    """
    if engine is Engine.NATIVE:
        return
    source, mistakes = f"--engine {engine}", []
    if settings.policy.rhs != "c":
        said = 'MLlib knows only "c"; the engine native knows both'
        mistakes.append(Mistake(source, "policy.rhs", settings.policy.rhs, said))
    if settings.policy.feedback != "implicit":
        said = "ratings with biases are trained by the engine native"
        mistakes.append(Mistake(source, "policy.feedback", settings.policy.feedback, said))
    if settings.bootstrap.objective != "als":
        said = 'MLlib knows only "als"; the engine native knows all'
        mistakes.append(Mistake(source, "bootstrap.objective", settings.bootstrap.objective, said))
    if settings.bootstrap.patience:
        said = "MLlib tells no loss to stop by; must be 0"
        mistakes.append(Mistake(source, "bootstrap.patience", str(settings.bootstrap.patience), said))
    if warm_start:
        mistakes.append(Mistake(source, "--warm-start", None, "MLlib starts at random; leave it out"))
    if mistakes:
        raise ConfigError(mistakes=mistakes)
    # Not before: the base package runs without Spark.
    from bootstrap.session import expect_installed

    expect_installed()
