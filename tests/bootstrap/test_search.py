"""The search: better than where it starts, goes on where it ended, writes what a worker's configuration reads."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import bootstrap.search as searching
from bootstrap.columns import Columns, columns_of
from bootstrap.fit import score
from bootstrap.job import recipe as recipe_of
from bootstrap.keys import applied, propose, settings_found, space_of
from bootstrap.search import as_run, as_toml, search, study_name, write_settings
from ops.data import synthetic
from schemas.records import DAY_MS
from streamer.errors import CheckFailed, ConfigError, DataError
from streamer.settings import Settings, load_settings
from tests.bootstrap.small import KEY, NOW_MS, changed, event, quiet, recipe, settings_of

if TYPE_CHECKING:
    from tests.bootstrap.small import Reading

TINY = synthetic.Shape(users=40, items=50, events=1_200, factors=4, sharpness=6.0)
METRICS = dict.fromkeys(("ndcg", "coverage", "popularity_recall", "frozen_recall"), 0.1) | {
    "recall": 0.2,
    "map": 0.3,
    "scored_events": 9.0,
}
COLUMNS = [event("u", f"i{number}", at=NOW_MS + number) for number in range(4)]


@pytest.fixture
def columns(reading: Reading) -> Columns:
    return columns_of(reading(*COLUMNS), changed(), KEY)[0]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """No fit: each recipe that is tried, and metrics that say which one is asked for."""
    tried: list[Any] = []

    def score_of(_columns: Columns, tested: Any, _show: Any) -> dict[str, float]:
        tried.append(tested)
        return METRICS

    monkeypatch.setattr(searching, "score", score_of)
    return tried


def test_it_finds_better_and_goes_on(reading: Reading, tmp_path: Path) -> None:
    """From a bad start; a second call with the same journal only adds what is missing."""
    policy = changed(ridge=5000.0)
    columns, _ = columns_of(reading(*synthetic.load(3, TINY).rebase(NOW_MS).events), policy, KEY)
    bad, keys = recipe(policy), ("alpha", "ridge", "ridge_items")
    journal = tmp_path / "deep" / "search.journal"
    first = search(columns, bad, trials=4, journal=journal, seed=1, metric="ndcg", show=quiet, keys=keys)
    assert first.best_value > score(columns, bad, quiet)["ndcg"]
    tried, best = [trial.params for trial in first.trials], first.best_value
    again = search(columns, bad, trials=6, journal=journal, seed=1, metric="ndcg", show=quiet, keys=keys)
    assert len(again.trials) == 6
    assert again.best_value >= best
    assert [trial.params for trial in again.trials[:4]] == tried


def test_a_search_that_goes_on_proposes_what_is_new(columns: Columns, tmp_path: Path, scored: list[Any]) -> None:
    """One trial at a time, as after so many interruptions: none of them is tried twice."""
    for trials in range(1, 9):
        search(columns, recipe(changed()), trials=trials, journal=tmp_path / "j", seed=1, metric="ndcg", show=quiet)
    assert len({tested.policy.alpha for tested in scored}) == 8


@pytest.mark.parametrize(
    "change",
    [
        {"policy": changed(norm_cap=7.0)},
        {"options": {"dimension": 9}, "keys": ("alpha",)},
        {"options": {"seed": 2}},
        {"keys": ("alpha", "rhs")},
        {"metric": "recall"},
        {"columns": True},
    ],
    ids=["policy", "training", "seed", "keys", "metric", "events"],
)
def test_another_search_in_the_same_journal_begins_anew(
    change: dict[str, Any],
    columns: Columns,
    reading: Reading,
    tmp_path: Path,
    scored: list[Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And says so; the first one goes on afterwards, which it says too."""
    plan: dict[str, Any] = {"trials": 2, "journal": tmp_path / "j", "seed": 0, "show": quiet}
    keys = ("alpha",) if change.get("keys") == ("alpha",) else ()
    search(columns, recipe(changed()), metric="ndcg", keys=keys, **plan)
    other = columns_of(reading(*COLUMNS[:3]), changed(), KEY)[0] if "columns" in change else columns
    changed_recipe = recipe(change.get("policy", changed()), **change.get("options", {}))
    found = search(other, changed_recipe, metric=change.get("metric", "ndcg"), keys=change.get("keys", ()), **plan)
    assert len(scored) == 4
    assert found.best_value == pytest.approx(0.2 if "metric" in change else 0.1)
    search(columns, recipe(changed()), metric="ndcg", keys=keys, **plan)
    assert len(scored) == 4
    told = capsys.readouterr().err.splitlines()
    assert ["anew" in line for line in told] == [True, True, False]
    assert "the 1 in it had other" in told[1]
    assert "goes on after 2 trials" in told[2]


def test_what_is_searched_or_changes_nothing_is_no_other_search(columns: Columns) -> None:
    """The best was written into the configuration; or there are more processors."""
    first, second = recipe(changed()), recipe(changed(alpha=7.0, half_life_ms=DAY_MS), iterations=9, threads=2)
    names = {study_name(columns, one, space_of(one), "ndcg") for one in (first, second)}
    assert len(names) == 1


@pytest.mark.parametrize(("metric", "value"), [("ndcg", 0.1), ("recall", 0.2), ("map", 0.3)])
def test_the_metric_asked_for_is_raised(
    metric: Any, value: float, columns: Columns, tmp_path: Path, scored: list[Any]
) -> None:
    """Not always the same one."""
    found = search(columns, recipe(changed()), trials=1, journal=tmp_path / "j", seed=0, metric=metric, show=quiet)
    assert (found.best_value, len(scored)) == (value, 1)


@pytest.mark.parametrize("objective", ["als", "bpr"])
@pytest.mark.parametrize("wide", [False, True])
def test_what_is_written_is_what_was_tried(objective: str, wide: bool, tmp_path: Path) -> None:
    """Through the file and the settings: the same recipe; and each key that a trial draws changes something."""
    import optuna

    environ = {"FACTORS_BOOTSTRAP__OBJECTIVE": objective}
    start = recipe_of(load_settings(None, environ))
    space, drawn = space_of(start, wide=wide), set[str]()
    assert ("session_weight" in space, "ridge_nu" in space, "unobserved_power" in space) == (wide,) * 3
    assert ("ridge_items" in space, "rate" in space) == (objective == "als", objective == "bpr")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for number in range(12):
        trial = study.ask()
        proposed = propose(trial, start, space)
        drawn |= set(trial.params)
        file = tmp_path / f"{number}.toml"
        file.write_text('# ours\n[kafka]\nprefix = "x."\n[policy]\nridge = 3.0   # a note\n')
        write_settings(file, settings_found(trial.params))
        settings = load_settings(file, environ)
        assert recipe_of(settings).training == proposed.training
        assert recipe_of(settings).policy == proposed.policy
        assert objective == "als" or recipe_of(settings).ranking == proposed.ranking
        assert settings.kafka.prefix == "x."
        assert "# a note" in file.read_text()
    assert drawn == set(space)
    for name, values in space.items():
        ends = [applied(start, {name: value}) for value in _ends(values)]
        assert ends[0] != ends[1]


def _ends(values: Any) -> tuple[Any, Any]:
    return (values.values[0], values.values[-1]) if hasattr(values, "values") else (values.low, values.high)


def test_keys_are_named_as_in_the_configuration() -> None:
    """Those and no other; a name that is none is a mistake of the command."""
    start = recipe_of(Settings())
    assert list(space_of(start, names=("unobserved_power", "alpha"))) == ["alpha", "unobserved_power"]
    with pytest.raises(ConfigError, match="ridge_item is no key that implicit-als is searched by; did you mean"):
        space_of(start, names=("ridge_item",))
    with pytest.raises(ConfigError, match="these are: alpha"):
        space_of(start, names=("zzz",))


def test_a_ridge_that_grows_begins_lower() -> None:
    """Times n entries to the power nu it is as large as another one."""
    assert space_of(recipe(changed()))["ridge"].first == 1.0
    assert space_of(recipe(changed(ridge_nu=0.5)))["ridge"].first == 0.001
    assert space_of(recipe(changed()), wide=True)["ridge_items"].first == 0.001


def test_values_that_give_no_model_end_no_search(
    columns: Columns, tmp_path: Path, scored: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are given up; a search of nothing else says so."""

    def at_times(columns: Columns, tested: Any, show: Any) -> dict[str, float]:
        if not scored:
            scored.append(None)
            raise CheckFailed("the fit left the range of float32")
        return METRICS

    monkeypatch.setattr(searching, "score", at_times)
    plan: dict[str, Any] = {"journal": tmp_path / "j", "seed": 0, "metric": "ndcg", "show": quiet}
    with pytest.raises(CheckFailed, match="none of 1 trials gave a model"):
        search(columns, recipe(changed()), trials=1, **plan)
    assert search(columns, recipe(changed()), trials=2, **plan).best_value == 0.1


def test_what_the_search_was_run_with_is_written_beside_the_best(tmp_path: Path) -> None:
    """It holds outside of its shell, too; what is a default is not spelt out."""
    here = settings_of(tmp_path, FACTORS_POLICY__WINDOW_MS="3153600000000", FACTORS_BOOTSTRAP__TRAIN_FRACTION="0.5")
    found = as_run(settings_found({"ridge": 7.0, "dimension": 16}), here)
    file = tmp_path / "factors.toml"
    write_settings(file, found)
    settings = load_settings(file, {})
    assert (settings.policy.ridge, settings.bootstrap.dimension) == (7.0, 16)
    assert (settings.policy.window_ms, settings.bootstrap.train_fraction) == (3153600000000, 0.5)
    assert "seed" not in found["bootstrap"]
    assert "events" not in found
    assert tomllib.loads(as_toml(found)) == found


def test_what_cannot_be_searched_is_said(reading: Reading, tmp_path: Path) -> None:
    """Too few events, or a file that is no configuration."""
    columns, _ = columns_of(reading(*COLUMNS[:1]), changed(), KEY)
    with pytest.raises(CheckFailed, match="too few events"):
        search(columns, recipe(changed()), trials=1, journal=tmp_path / "j", seed=0, metric="ndcg", show=quiet)
    broken = tmp_path / "broken.toml"
    broken.write_text("[half")
    with pytest.raises(DataError, match="cannot be read as TOML"):
        write_settings(broken, {"policy": {"ridge": 1.0}})


@pytest.mark.parametrize(
    ("place", "text", "said"),
    [
        ("folder", None, "cannot be read: Is a directory"),
        ("file/journal", None, "cannot be used as a journal"),
        ("journal", b"not a journal\nat all\n", "not the journal of a search"),
        ("journal", b"[]\n{}\n", "not the journal of a search"),
        ("journal", b'{"op_code": 0}\n', "not the journal of a search"),
        ("journal", b"\xff\xfe\n\n", "not the journal of a search"),
    ],
)
def test_a_journal_that_is_none_is_said(
    place: str, text: bytes | None, said: str, columns: Columns, tmp_path: Path, scored: list[Any]
) -> None:
    """In one sentence with the file's name, before anything is tried."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    journal = tmp_path / place
    if text is not None:
        journal.write_bytes(text)
    with pytest.raises(DataError, match=said) as problem:
        search(columns, recipe(changed()), trials=1, journal=journal, seed=0, metric="ndcg", show=quiet)
    assert str(journal) in str(problem.value)
    assert not scored


def test_a_journal_that_cannot_be_written_any_more_is_said(
    columns: Columns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder went away while a trial was fitted."""
    journal = tmp_path / "gone" / "j"

    def going(_columns: Columns, _tested: Any, _show: Any) -> dict[str, float]:
        journal.unlink()
        journal.parent.rmdir()
        return METRICS

    monkeypatch.setattr(searching, "score", going)
    with pytest.raises(DataError, match=r"cannot be (read|written)"):
        search(columns, recipe(changed()), trials=1, journal=journal, seed=0, metric="recall", show=quiet)
