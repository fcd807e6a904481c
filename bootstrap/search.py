"""Search for hyper-parameters: fit, foretell, try again, on events that the final test never sees.

Each trial trains on the older part of the log and foretells the newer one (`evaluate.py`), so a log that ends before
the test begins keeps the test honest. Optuna proposes (TPE: Bergstra et al. 2011, doi 10.5555/2986459.2986743) values
of the keys in `keys.py`. What was tried lies in a journal file. It may hold many searches: one for each set of events,
metric, space and recipe outside of the space; the same search goes on where it ended, any other begins anew.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from bootstrap.fit import Recipe, score
from bootstrap.keys import applied, propose, space_of
from streamer.errors import CheckFailed, DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import optuna

    from bootstrap.columns import Columns
    from bootstrap.keys import Space
    from bootstrap.progress import Show
    from streamer.settings import Settings

Metric = Literal["ndcg", "recall", "map"]


def search(
    columns: Columns,
    recipe: Recipe,
    *,
    trials: int,
    journal: Path,
    seed: int,
    metric: Metric,
    show: Show,
    wide: bool = False,
    keys: tuple[str, ...] = (),
) -> optuna.Study:
    """Try until the journal holds ``trials`` finished ones of this search; what it holds already counts.

    Args:
        columns: all events.
        recipe: where the keys that are not searched come from.
        trials: how many.
        journal: the file; its folder is made.
        seed: of what is proposed.
        metric: what to raise.
        show: the progress.
        wide: search also what is seldom useful.
        keys: search exactly these keys.

    Raises:
        CheckFailed: there are too few events to foretell any, or no trial gave a model.
        ConfigError: a key that is no key of this objective.
        DataError: the journal can't be read or written.
    """
    if recipe.policy.feedback == "explicit":
        raise CheckFailed("the search looks at rankings of implicit feedback; ratings have none to be searched by.")
    space = space_of(recipe, wide=wide, names=keys)
    name = study_name(columns, recipe, space, metric)
    study, done = _study(journal, name, seed)

    with show("searching", max(trials, 1)) as say:
        say(done, "")
        for number in range(done + 1, trials + 1):
            _try(study, columns, recipe, space, metric)
            best = max((trial.value for trial in study.trials if trial.value is not None), default=0.0)
            say(number, f"best {metric} {best:.4f}")
    if all(trial.value is None for trial in study.trials):
        raise CheckFailed(f"none of {_tried(study)} trials gave a model: every fit left the range of float32.")
    return study


def study_name(columns: Columns, recipe: Recipe, space: Space, metric: Metric) -> str:
    """Another name for other events, another space, or another recipe outside of it."""
    digest = hashlib.sha256()
    for column in (columns.user, columns.item, columns.kind, columns.weight, columns.at, columns.segment):
        digest.update(np.ascontiguousarray(column).tobytes())
    for ids in (columns.user_ids, columns.item_ids):
        digest.update(msgspec.json.encode(ids))
    # A key that is searched has one value here, whatever it is in the configuration; threads change no result.
    fixed = applied(recipe, {name: values.first for name, values in space.items()})
    told = msgspec.to_builtins(replace(fixed, training=replace(fixed.training, threads=0)))
    # Of ratings, and of what the objective does not read.
    for name in ("ridges", "descent", *(("ranking",) if recipe.objective != "bpr" else ())):
        del told[name]
    digest.update(msgspec.json.encode(told, order="sorted"))
    digest.update(repr(sorted(space.items())).encode())
    return f"{metric}-{recipe.objective}-{digest.hexdigest()[:16]}"


def _try(study: optuna.Study, columns: Columns, recipe: Recipe, space: Space, metric: Metric) -> None:
    """One trial; values whose fit leaves the range of numbers are given up, not the search."""
    from optuna.trial import TrialState

    trial = study.ask()
    try:
        metrics = score(columns, propose(trial, recipe, space), _silent)
    except CheckFailed:
        study.tell(trial, state=TrialState.PRUNED)
        return
    if not metrics.get("scored_events"):
        study.tell(trial, state=TrialState.FAIL)
        raise CheckFailed("too few events to foretell any: nothing to search by.")
    for name in ("recall", "ndcg", "map", "coverage", "popularity_recall", "frozen_recall"):
        trial.set_user_attr(name, metrics[name])
    study.tell(trial, metrics[metric])


def _tried(study: optuna.Study) -> int:
    """Trials that ended by themselves: with a value, or given up."""
    from optuna.trial import TrialState

    return sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in study.trials)


def _study(journal: Path, name: str, seed: int) -> tuple[optuna.Study, int]:
    """The study of this name, new or as it was left, and how many trials it has."""
    try:
        import optuna
        from optuna.storages import JournalStorage
    except ModuleNotFoundError as problem:
        raise DataError(f"searching needs {problem.name}: pip install 'streaming-factors[search]'.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(_backend(journal))
        others = [study.study_name for study in storage.get_all_studies()]
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            direction="maximize",
            load_if_exists=True,
        )
        done, begun = _tried(study), len(study.trials)
    except OSError as problem:
        raise DataError(f"{journal} cannot be used as a journal: {problem.strerror or problem}.") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        # Whatever a line that is none of Optuna's does to it.
        raise DataError(f"{journal} is not the journal of a search, or is damaged: name another file.") from None
    # By what was tried, too: the sampler would propose from its beginning again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + begun, n_startup_trials=10)
    if name in others:
        print(f"{journal}: the search goes on after {done} trials.", file=sys.stderr)
    else:
        known = f"; the {len(others)} in it had other events, metrics, keys or recipes" if others else ""
        print(f"{journal}: a search begins anew{known}.", file=sys.stderr)
    return study, done


def _backend(journal: Path) -> Any:
    """Optuna's file, whose failures are sentences."""
    from optuna.storages.journal import JournalFileBackend

    class Backend(JournalFileBackend):
        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            try:
                super().append_logs(logs)
            # A lock that cannot be made ends in a RuntimeError when it is given back.
            except (OSError, RuntimeError) as problem:
                raise DataError(f"{journal} cannot be written: {problem}.") from None

        def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
            try:
                yield from super().read_logs(log_number_from)
            except OSError as problem:
                raise DataError(f"{journal} cannot be read: {problem.strerror or problem}.") from None

    return Backend(str(journal))


class _Nothing:
    def __enter__(self) -> Any:
        return lambda done, note: None

    def __exit__(self, *_: object) -> None:
        pass


def _silent(_what: str, _total: int) -> Any:
    """A fit inside of a search shows no bar of its own."""
    return _Nothing()


def as_run(found: dict[str, dict[str, Any]], settings: Settings) -> dict[str, dict[str, Any]]:
    """The best trial's tables (`keys.settings_found`), with all else that the search was run with.

    That is what differs from the defaults, wherever it was set: the values were found under it, and hold under it.
    """
    tables = {name: _changed(settings, name) | found.get(name, {}) for name in ("events", "policy", "bootstrap")}
    return {name: table for name, table in tables.items() if table}


def _changed(settings: Settings, section: str) -> dict[str, Any]:
    """The values of a section that are no defaults."""
    now, default = (msgspec.to_builtins(dict(_fields(getattr(one, section)))) for one in (settings, type(settings)()))
    return {name: value for name, value in now.items() if value != default[name]}


def _fields(section: Any) -> Iterable[tuple[str, Any]]:
    return msgspec.structs.asdict(section).items() if isinstance(section, msgspec.Struct) else section


def as_toml(found: dict[str, dict[str, Any]]) -> str:
    """The tables as text."""
    import tomlkit

    return tomlkit.dumps(found)


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
