"""`config check` and `config show`."""

from pathlib import Path

from streamer.settings import Settings
from streamer.vocabulary import Vocabulary
from tests.streamer.commands.calls import Commands


def test_check_says_yes(streamer: Commands) -> None:
    """Nothing is wrong with nothing."""
    assert streamer("config", "check").code == 0
    assert streamer("config", "check", "--json").json() == {"ok": True, "mistakes": []}


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
