"""`config check` and `config show`."""

from pathlib import Path

import pytest

from streamer.settings import Settings
from streamer.vocabulary import Vocabulary
from tests.streamer.commands.calls import Commands


def test_check_says_yes(streamer: Commands) -> None:
    """Nothing is wrong with nothing."""
    assert streamer("config", "check").code == 0
    assert streamer("config", "check", "--json").json() == {"ok": True, "mistakes": [], "file": None}


def test_check_says_what_it_read(streamer: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that lies where one would look for it is not read by itself, and that is said."""
    file = tmp_path / "factors.toml"
    file.write_text('[kafka]\nprefix = "x."\n')
    monkeypatch.chdir(tmp_path)
    told = streamer("config", "check").err
    assert "no file, 0 from the environment" in told
    assert "factors.toml is here and was not read" in told
    told = streamer("config", "check", "--config", str(file), FACTORS_LOG__LEVEL="debug").err
    assert f"{file}, 1 from the environment" in told
    assert "not read" not in told


def test_check_lists_mistakes_as_json(streamer: Commands) -> None:
    """Each mistake with source, key, value and message; the exit code is still 2."""
    result = streamer("config", "check", "--json", FACTORS_HTTP__PORT="x")
    assert result.code == 2
    (mistake,) = result.json()["mistakes"]
    assert mistake["source"] == "environment FACTORS_HTTP__PORT"
    assert (mistake["key"], mistake["value"]) == ("http.port", '"x"')


def test_show_has_every_setting_and_its_origin(streamer: Commands, tmp_path: Path) -> None:
    """Defaults included; where a value came from is a file with its line or a variable."""
    file = tmp_path / "f.toml"
    file.write_text('[kafka]\nprefix = "x."\n')
    result = streamer("config", "show", "--origin", "--json", "--config", str(file), FACTORS_LOG__LEVEL="debug")
    shown = result.json()
    assert set(shown) == {".".join(path) for path in Vocabulary(Settings).leaves()}
    assert shown["kafka.prefix"] == {"value": "x.", "origin": f"{file}:2"}
    assert shown["log.level"] == {"value": "debug", "origin": "environment FACTORS_LOG__LEVEL"}
    assert shown["topics.partitions"] == {"value": 8, "origin": "default"}


def test_show_as_text_is_one_line_a_setting(streamer: Commands) -> None:
    """Tabs elsewhere than on a terminal; numbers as they were written."""
    out = streamer("config", "show").out
    assert "engine.tolerance\t1e-06\n" in out
    assert "kafka.prefix\tfactors.\n" in out


def test_show_hides_secrets(streamer: Commands) -> None:
    """Also as JSON, also in a URL."""
    for arguments in (("config", "show"), ("config", "show", "--json"), ("config", "show", "--origin")):
        result = streamer(
            *arguments,
            FACTORS_KAFKA__PASSWORD="hunter2",
            FACTORS_BOOTSTRAP__ARTIFACTS="s3://me:hunter2@bucket/models",
        )
        assert result.code == 0
        assert "hunter2" not in result.out
        assert "bucket/models" in result.out
