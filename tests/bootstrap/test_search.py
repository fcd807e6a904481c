"""The search: better than where it starts, goes on where it ended, writes what a worker's configuration reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bootstrap.columns import columns_of
from bootstrap.fit import score
from bootstrap.search import search, settings_found, write_settings
from ops.data import synthetic
from streamer.errors import CheckFailed, DataError
from streamer.settings import load_settings
from tests.bootstrap.small import KEY, NOW_MS, SHAPE, changed, quiet, recipe

if TYPE_CHECKING:
    from tests.bootstrap.small import Reading


def test_it_finds_better_and_goes_on(reading: Reading, tmp_path: Path) -> None:
    """From a bad start; a second call with the same journal only adds what is missing."""
    policy = changed(ridge=5000.0)
    columns, _ = columns_of(reading(*synthetic.load(3, SHAPE).rebase(NOW_MS).events), policy, KEY)
    bad = recipe(policy)
    journal = tmp_path / "deep" / "search.journal"
    first = search(columns, bad, trials=4, journal=journal, seed=1, metric="ndcg", show=quiet)
    assert first.best_value > score(columns, bad, quiet)["ndcg"]
    tried, best = [trial.params for trial in first.trials], first.best_value
    again = search(columns, bad, trials=6, journal=journal, seed=1, metric="ndcg", show=quiet)
    assert len(again.trials) == 6
    assert again.best_value >= best
    assert [trial.params for trial in again.trials[:4]] == tried
    file = tmp_path / "factors.toml"
    file.write_text('# ours\n[kafka]\nprefix = "x."\n[policy]\nridge = 3.0   # a note\n')
    found = settings_found(again.best_params)
    write_settings(file, found)
    settings = load_settings(file, {})
    assert settings.policy.ridge == again.best_params["ridge"]
    assert settings.bootstrap.dimension == again.best_params["dimension"]
    assert settings.kafka.prefix == "x."
    assert "# a note" in file.read_text()


def test_what_cannot_be_searched_is_said(reading: Reading, tmp_path: Path) -> None:
    """Too few events, or a file that is no configuration."""
    columns, _ = columns_of(reading(*synthetic.load(3, SHAPE).rebase(NOW_MS).events[:1]), changed(), KEY)
    with pytest.raises(CheckFailed, match="too few events"):
        search(columns, recipe(changed()), trials=1, journal=tmp_path / "j", seed=0, metric="ndcg", show=quiet)
    broken = tmp_path / "broken.toml"
    broken.write_text("[half")
    with pytest.raises(DataError, match="cannot be read as TOML"):
        write_settings(broken, {"policy": {"ridge": 1.0}})
