"""Search for hyper-parameters: fit, foretell, try again, on events that the final test never sees.

Each trial trains on the older part of the log and foretells the newer one (`evaluate.py`), so a log that ends before
the test begins keeps the test honest. Optuna proposes (TPE: Bergstra et al. 2011, doi 10.5555/2986459.2986743); what
was tried lies in a journal file, and a search with the same file goes on where the last one ended.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from bootstrap.fit import Recipe, score
from schemas.records import DAY_MS
from streamer.errors import CheckFailed, DataError

if TYPE_CHECKING:
    import optuna

    from bootstrap.columns import Columns
    from bootstrap.progress import Show

Metric = Literal["ndcg", "recall", "map"]


def propose(trial: optuna.Trial, recipe: Recipe) -> Recipe:
    """A recipe within the bounds that made sense on any data so far."""
    days = trial.suggest_categorical("half_life_days", (0, 7, 30, 90, 365))
    policy = msgspec.structs.replace(
        recipe.policy,
        alpha=trial.suggest_float("alpha", 0.5, 50.0, log=True),
        ridge=trial.suggest_float("ridge", 1.0, 200.0, log=True),
        confidence=trial.suggest_categorical("confidence", ("log", "linear")),
        rhs=trial.suggest_categorical("rhs", ("c", "c-1")),
        half_life_ms=days * DAY_MS,
        recency_entries=trial.suggest_categorical("recency_entries", (0.0, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0)),
    )
    training = replace(
        recipe.training,
        dimension=trial.suggest_categorical("dimension", (32, 64, 128)),
        iterations=trial.suggest_int("iterations", 5, 25),
        ridge=policy.ridge,
        rhs=policy.rhs,
        ridge_items=trial.suggest_float("ridge_items", 1.0, 200.0, log=True),
    )
    return replace(recipe, policy=policy, training=training)


def search(
    columns: Columns, recipe: Recipe, *, trials: int, journal: Path, seed: int, metric: Metric, show: Show
) -> optuna.Study:
    """Try until the journal holds ``trials`` finished ones; what it holds already counts.

    Raises:
        CheckFailed: there are too few events to foretell any.
    """
    if recipe.policy.feedback == "explicit":
        raise CheckFailed("the search looks at rankings of implicit feedback; ratings have none to be searched by.")
    study = _study(journal, metric, seed)
    done = sum(trial.state.is_finished() for trial in study.trials)

    def judge(trial: optuna.Trial) -> float:
        metrics = score(columns, propose(trial, recipe), _silent)
        if not metrics.get("scored_events"):
            raise CheckFailed("too few events to foretell any: nothing to search by.")
        for name in ("recall", "ndcg", "map", "coverage", "popularity_recall", "frozen_recall"):
            trial.set_user_attr(name, metrics[name])
        return metrics[metric]

    with show("searching", max(trials, 1)) as say:
        say(done, "")

        def tell(found: optuna.Study, _: Any) -> None:
            number = sum(trial.state.is_finished() for trial in found.trials)
            say(number, f"best {metric} {found.best_value:.4f}")

        study.optimize(judge, n_trials=max(trials - done, 0), callbacks=[tell])
    return study


def _study(journal: Path, metric: str, seed: int) -> optuna.Study:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ModuleNotFoundError as problem:
        raise DataError(f"searching needs {problem.name}: pip install 'streaming-factors[search]'.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        study_name=metric,
        storage=JournalStorage(JournalFileBackend(str(journal))),
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=10),
        direction="maximize",
        load_if_exists=True,
    )


class _Nothing:
    def __enter__(self) -> Any:
        return lambda done, note: None

    def __exit__(self, *_: object) -> None:
        pass


def _silent(_what: str, _total: int) -> Any:
    """A fit inside of a search shows no bar of its own."""
    return _Nothing()


def settings_found(params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The best trial as the tables of a configuration file."""
    policy = {name: params[name] for name in ("alpha", "ridge", "confidence", "rhs", "recency_entries")}
    policy["half_life_ms"] = params["half_life_days"] * DAY_MS
    bootstrap = {name: params[name] for name in ("dimension", "iterations", "ridge_items")}
    return {"policy": policy, "bootstrap": bootstrap}


def write_settings(file: Path, found: dict[str, dict[str, Any]]) -> None:
    """Put the values into a TOML file, new or there already; comments and all else in it stay.

    Raises:
        DataError: the file is there and is not TOML.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        text = tomlkit.parse(file.read_text("utf-8")) if file.exists() else tomlkit.document()
    except (OSError, UnicodeDecodeError, TOMLKitError) as problem:
        raise DataError(f"{file} cannot be read as TOML: {problem}.") from None
    for section, values in found.items():
        table: Any = text.setdefault(section, tomlkit.table())
        for name, value in values.items():
            table[name] = value
    file.write_text(tomlkit.dumps(text), "utf-8")
