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
    """Refuse before anything is read what this engine, or the objective, would have to ignore.

    Raises:
        ConfigError: MLlib's ALS has b = sum c v and a ridge of its own, weighs unobserved pairs alike, tells no loss
            and starts at random; pairs are not confidences; or Spark or its Java is missing.
    """
    mistakes = _of_objective(settings)
    if engine is Engine.SPARK:
        mistakes += _of_spark(settings, warm_start=warm_start)
    if mistakes:
        raise ConfigError(mistakes=mistakes)
    if engine is Engine.SPARK:
        # Not before: the base package runs without Spark.
        from bootstrap.session import expect_installed

        expect_installed()


def _of_objective(settings: Settings) -> list[Mistake]:
    power, objective = settings.policy.unobserved_power, settings.bootstrap.objective
    if objective != "bpr" or not power:
        return []
    said = "pairs have no unobserved ones to weigh; see bootstrap.negative_popularity; must be 0"
    return [Mistake(f'bootstrap.objective = "{objective}"', "policy.unobserved_power", str(power), said)]


def _of_spark(settings: Settings, *, warm_start: bool) -> list[Mistake]:
    source, mistakes = f"--engine {Engine.SPARK}", []
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
    ignored = {
        "ridge_nu": "MLlib's ridge grows with the row, by its own rule",
        "ridge_alpha0": "MLlib's ridge grows with the row, by its own rule",
        "unobserved_power": "MLlib weighs all unobserved pairs alike",
    }
    for name, why in ignored.items():
        if value := getattr(settings.policy, name):
            mistakes.append(Mistake(source, f"policy.{name}", str(value), f"{why}; must be 0"))
    if warm_start:
        mistakes.append(Mistake(source, "--warm-start", None, "MLlib starts at random; leave it out"))
    return mistakes
