"""Settings: one file and the environment, every mistake at once, no secret ever shown."""

import tomllib
from pathlib import Path

import msgspec
import pytest

from schemas.records import Policy
from streamer.configuration import ENV_PREFIX
from streamer.errors import ConfigError, Mistake
from streamer.settings import (
    Settings,
    aiokafka_options,
    kafka_python_options,
    load_settings,
    load_with_origins,
)
from streamer.vocabulary import Vocabulary, line_of

_EXAMPLE = Path(__file__).parents[2] / "factors.toml"


def _load(tmp_path: Path, text: str, **environ: str) -> Settings:
    file = tmp_path / "factors.toml"
    file.write_text(text)
    return load_settings(file, environ)


def _mistakes(tmp_path: Path, text: str = "", **environ: str) -> tuple[Mistake, ...]:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text, **environ)
    assert caught.value.exit_code == 2
    return caught.value.mistakes


def test_defaults_are_the_contract() -> None:
    """Nothing configured gives the documented defaults, and the environment is not looked at."""
    settings = load_settings(None, {})
    assert settings == Settings()
    assert settings.policy == Policy()
    assert settings.topic("interactions") == "factors.interactions"


def test_example_file_is_the_defaults_and_complete() -> None:
    """`factors.toml` has every key, at its default; keys without a default are shown as comments."""
    assert load_settings(_EXAMPLE, {}) == Settings()
    text = _EXAMPLE.read_text()
    for path in Vocabulary(Settings).leaves():
        assert any(line_of(variant, path) for variant in (text, text.replace("\n# ", "\n"))), (
            f"{'.'.join(path)} is missing in factors.toml"
        )


def test_booleans_where_they_belong(tmp_path: Path) -> None:
    """True and false for a switch, in the file and in the environment; never for a number."""
    assert _load(tmp_path, "[quality]\nask_for_retrain = true\n").quality.ask_for_retrain
    assert _load(tmp_path, "", FACTORS_QUALITY__ASK_FOR_RETRAIN="true").quality.ask_for_retrain
    (mistake,) = _mistakes(tmp_path, "[quality]\nsample = true\n")
    assert mistake.key == "quality.sample"
    (mistake,) = _mistakes(tmp_path, '[quality]\nask_for_retrain = "perhaps"\n')
    assert mistake.key == "quality.ask_for_retrain"


def test_what_keys_get_wrong_together_is_said_once_and_at_the_key_that_is_there(tmp_path: Path) -> None:
    """All of it at once, though a wrong key elsewhere has the rest looked at twice."""
    text = """[engine]
app_id = "x"
session_timeout_ms = 20000
max_batch_events = 10000
[kafka]
prefix = "x."
security_protocol = "SASL_SSL"
[enginee]
a = 1
"""
    found = [(one.source.rpartition(":")[2], one.key) for one in _mistakes(tmp_path, text)]
    assert found == [
        ("3", "engine.transaction_timeout_ms"),
        ("4", "engine.max_pending_events"),
        ("7", "kafka.password"),
        ("7", "kafka.username"),
        ("9", "enginee"),
    ]


def test_environment_wins_over_file(tmp_path: Path) -> None:
    """A variable wins, other keys of its section stay, and text becomes numbers."""
    text = '[kafka]\nprefix = "a."\nbootstrap_servers = "one:1"\n[policy.weights]\nclick = 2\n'
    settings = _load(
        tmp_path,
        text,
        FACTORS_KAFKA__PREFIX="b.",
        FACTORS_TOPICS__PARTITIONS="3",
        FACTORS_POLICY__RIDGE="2.5",
        FACTORS_POLICY__WEIGHTS__CART="7",
        FACTORS_CONFIG="not a setting",
        HOME="/root",
    )
    assert settings.kafka.prefix == "b."
    assert settings.kafka.bootstrap_servers == "one:1"
    assert settings.topics.partitions == 3
    assert settings.policy.ridge == 2.5
    assert settings.policy.weights == Policy().weights | {"click": 2.0, "cart": 7.0}


def test_policy_numbers_have_the_types_of_their_fields(tmp_path: Path) -> None:
    """`alpha = 5` is 5.0: the manifest says the same however it was written."""
    settings = _load(tmp_path, "[policy]\nalpha = 5\n")
    assert type(settings.policy.alpha) is float
    assert msgspec.json.encode(settings.policy) == msgspec.json.encode(Policy())


def test_origins_name_line_and_variable(tmp_path: Path) -> None:
    """Each value that is no default has a place."""
    file = tmp_path / "f.toml"
    file.write_text('# c\n[kafka]\nprefix = "a."\n\n[policy.weights]\nview = 1\n')
    _, origins = load_with_origins(file, {"FACTORS_LOG__LEVEL": "debug"})
    assert origins == {
        "kafka.prefix": f"{file}:3",
        "policy.weights.view": f"{file}:6",
        "log.level": "environment FACTORS_LOG__LEVEL",
    }


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    """Wrong values, names, sections, variables and pairs of keys: one list, each with its line."""
    text = """
[kafka]
bootstrap_servers = "here"
prefx = "x"
[topics]
partitions = 0
[engine]
session_timeout_ms = 20000
tolerance = "tiny"
[policy]
alpha = -1
alhpa = 2
[policy.weights]
clik = 1
[http]
port = true
[loging]
level = "info"
"""
    found = _mistakes(tmp_path, text, FACTORS_LOG__LEVEL="loud", FACTORS_KAFA__PREFIX="x")
    by_key = {mistake.key: mistake for mistake in found}
    assert len(by_key) == len(found)
    assert set(by_key) == {
        "kafka.bootstrap_servers",
        "kafka.prefx",
        "topics.partitions",
        "engine.transaction_timeout_ms",
        "engine.tolerance",
        "policy.alpha",
        "policy.alhpa",
        "policy.weights.clik",
        "http.port",
        "loging",
        "log.level",
        "FACTORS_KAFA__PREFIX",
    }
    assert by_key["topics.partitions"].source.endswith("factors.toml:6")
    assert by_key["topics.partitions"].value == "0"
    assert ">= 1" in by_key["topics.partitions"].message
    assert "did you mean prefix?" in by_key["kafka.prefx"].message
    assert "did you mean alpha?" in by_key["policy.alhpa"].message
    assert "did you mean log?" in by_key["loging"].message
    assert "debug, info, warning, error" in by_key["log.level"].message
    assert by_key["log.level"].source == "environment FACTORS_LOG__LEVEL"
    assert "did you mean FACTORS_KAFKA__PREFIX?" in by_key["FACTORS_KAFA__PREFIX"].message
    assert "session_timeout_ms = 20000" in by_key["engine.transaction_timeout_ms"].message
    assert by_key["http.port"].value == "true"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[kafka\n", "not valid TOML"),
        ("kafka = 3\n", "a table of bootstrap_servers"),
        ("policy = 3\n", "must be a table"),
        ("[policy]\nweights = 3\n", "must be a table"),
        ("[policy]\nridge = inf\n", "finite"),
        ("[engine]\ntolerance = nan\n", "<= 0.01"),
        ('[kafka]\nssl_cafile = "/nowhere/ca.pem"\n', "names no file"),
        ('[kafka]\nsecurity_protocol = "SASL_SSL"\nusername = "u"\n', "security_protocol = SASL_SSL needs it"),
        ('[topics]\npartitions = "8"\n', "not text; leave out the quotes"),
        ('[engine]\ntolerance = "small"\n', "<= 0.01, not text"),
        ('[policy]\nridge = "0.5"\n', "a finite number"),
        ('[policy.weights]\nclick = "2"\n', "a finite number"),
        ("[engine]\nmax_pending_events = 10\n", "at least max_batch_events"),
    ],
)
def test_each_kind_of_mistake_says_what_is_allowed(tmp_path: Path, text: str, word: str) -> None:
    """One mistake, one line, in words."""
    (mistake,) = _mistakes(tmp_path, text)
    assert word in mistake.message
    assert "factors.toml" in mistake.source


def test_a_default_never_makes_a_mistake_of_a_good_value(tmp_path: Path) -> None:
    """Where one key of a pair is wrong by itself, the other is not judged against the default."""
    text = '[engine]\nsession_timeout_ms = "x"\ntransaction_timeout_ms = 8000\n'
    (mistake,) = _mistakes(tmp_path, text)
    assert mistake.key == "engine.session_timeout_ms"


def test_missing_file_and_environment_are_reported_together(tmp_path: Path) -> None:
    """A file that cannot be read does not hide what is wrong elsewhere."""
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path / "none.toml", {"FACTORS_HTTP__PORT": "99999"})
    assert {mistake.key for mistake in caught.value.mistakes} == {"http.port", ""}
    assert "No such file" in str(caught.value)


@pytest.mark.parametrize("key", ["password", "pasword", "PASSWORD", "api_token"])
def test_secrets_never_print(tmp_path: Path, key: str) -> None:
    """Not in a mistake, not under a misspelt name, not in a representation of the settings."""
    found = _mistakes(tmp_path, f'[kafka]\n{key} = "hunter2"\nprefix = 1\n')
    assert "hunter2" not in "".join(map(str, found))
    settings = _load(tmp_path, "", FACTORS_KAFKA__PASSWORD="hunter2")
    assert "hunter2" not in repr(settings) + str(settings) + str(settings.kafka)


def test_a_secret_variable_of_the_wrong_name_stays_hidden(tmp_path: Path) -> None:
    """FACTORS_KAFKA__PASSWRD is unknown, and shown without its value."""
    (mistake,) = _mistakes(tmp_path, FACTORS_KAFKA__PASSWRD="hunter2")
    assert "hunter2" not in str(mistake)
    assert "FACTORS_KAFKA__PASSWORD" in mistake.message


def test_urls_lose_their_passwords(tmp_path: Path) -> None:
    """An artifact URL may hold one."""
    words = Vocabulary(Settings)
    assert "pw" not in words.show(("bootstrap", "artifacts"), "s3://user:pw@bucket/x")


def test_clients_get_the_same_credentials(tmp_path: Path) -> None:
    """Both libraries are told the same, each in its own words."""
    settings = _load(
        tmp_path,
        "",
        FACTORS_KAFKA__BOOTSTRAP_SERVERS="a:1, b:2",
        FACTORS_KAFKA__SECURITY_PROTOCOL="SASL_SSL",
        FACTORS_KAFKA__USERNAME="u",
        FACTORS_KAFKA__PASSWORD="p",
    )
    for options in (kafka_python_options(settings), aiokafka_options(settings)):
        assert options["bootstrap_servers"] == ["a:1", "b:2"]
        assert options["security_protocol"] == "SASL_SSL"
        assert options["sasl_mechanism"] == "SCRAM-SHA-512"
        assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("u", "p")
    assert "ssl_context" in aiokafka_options(settings)
    assert set(kafka_python_options(Settings())) == {"bootstrap_servers", "security_protocol"}


def test_line_of_finds_what_tomllib_finds() -> None:
    """Tables, dotted keys, quoted keys and inline tables."""
    text = '[a]\nx = 1\n"y" = 2\n[b.c]\nz = 3\n[d]\ne.f = 4\ng = { h = 5 }\n'
    data = tomllib.loads(text)
    assert data["d"]["e"]["f"] == 4
    assert line_of(text, ("a", "x")) == 2
    assert line_of(text, ("a", "y")) == 3
    assert line_of(text, ("b", "c", "z")) == 5
    assert line_of(text, ("d", "e", "f")) == 7
    assert line_of(text, ("d", "g", "h")) == 8
    assert line_of(text, ("a", "none")) is None


def test_every_setting_has_a_variable() -> None:
    """The vocabulary covers all sections; each leaf can be set from the environment."""
    leaves = list(Vocabulary(Settings).leaves())
    assert ("policy", "weights", "click") in leaves
    assert ("kafka", "password") in leaves
    assert {path[0] for path in leaves} == set(Settings.model_fields)
    assert ENV_PREFIX == "FACTORS_"
