"""The command line as a user meets it: one clear sentence, the right exit code, never a stack."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamer.errors import BrokerError, CheckFailed, ConfigError, DataError
from tests.streamer.commands.calls import ROOT, Commands, process

NOBODY = "127.0.0.1:1"

NEEDS_BROKER = [
    ["run"],
    ["topics", "create"],
    ["topics", "check"],
    ["items", "publish", "ITEMS"],
    ["produce", "EVENTS"],
    ["watch", "user", "u"],
    ["explain", "user", "u"],
    ["models", "list"],
    ["models", "activate", "m"],
    ["models", "rollback"],
    ["dead-letters", "show"],
    ["dead-letters", "replay"],
    ["audit"],
]


def test_exit_codes_are_the_contract() -> None:
    """1 the check said no, 2 configuration, 3 broker, 4 data."""
    codes = [error.exit_code for error in (CheckFailed, ConfigError, BrokerError, DataError)]
    assert codes == [1, 2, 3, 4]


@pytest.mark.parametrize("arguments", NEEDS_BROKER, ids=" ".join)
def test_no_broker_is_said_at_once(streamer: Commands, tmp_path: Path, arguments: list[str]) -> None:
    """Exit code 3 within seconds, one sentence with the address and what to do."""
    (tmp_path / "items").write_text('{"item_id": "i", "title": "t"}\n')
    (tmp_path / "events").write_text('{"user_id": "u"}\n')
    files = {"ITEMS": str(tmp_path / "items"), "EVENTS": str(tmp_path / "events")}
    started = time.monotonic()
    result = streamer(*(files.get(part, part) for part in arguments), FACTORS_KAFKA__BOOTSTRAP_SERVERS=NOBODY)
    assert result.code == 3
    assert time.monotonic() - started < 10
    assert f"no Kafka broker answers at {NOBODY} (connection refused)" in result.err
    assert "FACTORS_KAFKA__BOOTSTRAP_SERVERS" in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.slow
def test_something_else_at_the_address() -> None:
    """A port that listens and says nothing is not a broker; the command gives up in about ten seconds."""
    # In a process of its own: the client does not close what it opened when it gives up.
    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        result = process("models", "list", environment={"FACTORS_KAFKA__BOOTSTRAP_SERVERS": address})
    assert result.code == 3
    assert time.monotonic() - started < 15
    assert "does not answer as a Kafka broker should" in result.err
    assert len(result.err.splitlines()) == 1


def test_configuration_mistakes_come_before_everything(streamer: Commands, tmp_path: Path) -> None:
    """All of them, on standard error, with exit code 2, although the broker is not there either."""
    file = tmp_path / "f.toml"
    file.write_text("[topics]\npartitons = 3\n[http]\nport = -1\n")
    result = streamer("topics", "create", "--config", str(file), FACTORS_KAFKA__BOOTSTRAP_SERVERS=NOBODY)
    assert result.code == 2
    assert f"{file}:2: topics.partitons = 3: is no setting; did you mean partitions?" in result.err
    assert f"{file}:4: http.port = -1: must be a whole number >= 0 and <= 65535" in result.err


def test_config_goes_before_or_after_the_command(streamer: Commands, tmp_path: Path) -> None:
    """Both `streamer --config F config check` and `streamer config check --config F`, and a variable."""
    file = tmp_path / "f.toml"
    file.write_text("x = 1\n")
    assert streamer("--config", str(file), "config", "check").code == 2
    assert streamer("config", "check", "--config", str(file)).code == 2
    assert streamer("config", "check").code == 0
    assert streamer("config", "check", FACTORS_CONFIG=str(file)).code == 2


def test_process_has_the_same_codes() -> None:
    """What the shell sees: no stack, one line, exit code; with --debug the stack as well."""
    nobody = {"FACTORS_KAFKA__BOOTSTRAP_SERVERS": NOBODY}
    result = process("models", "list", environment=nobody)
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith("streamer: no Kafka broker answers")
    assert "Traceback" not in result.err
    result = process("--debug", "models", "list", environment=nobody)
    assert result.code == 3
    assert "Traceback" in result.err


def test_usage_mistakes(streamer: Commands) -> None:
    """An unknown command or a wrong option: usage, exit code 2."""
    for arguments in (["nope"], ["run", "--role", "x"], ["produce", "f", "--late", "3"], ["explain", "user"]):
        result = streamer(*arguments)
        assert result.code == 2, arguments
        assert "Usage" in result.err


@pytest.mark.parametrize(
    "arguments",
    [["--help"], *([*command, "--help"] for command in NEEDS_BROKER), ["validate", "--help"], ["doctor", "--help"]],
    ids=" ".join,
)
def test_every_command_has_help(streamer: Commands, arguments: list[str]) -> None:
    """Help answers without configuration and without a broker."""
    words = [word for word in arguments if word not in ("ITEMS", "EVENTS", "u", "m")]
    result = streamer(*words, FACTORS_KAFKA__BOOTSTRAP_SERVERS=NOBODY)
    assert result.code == 0
    assert "Usage:" in result.out


def test_defects_are_called_defects(streamer: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody thought of is one line too, with an exit code of its own."""
    monkeypatch.setattr("streamer.commands.config.Vocabulary", lambda model: 1 / 0)
    result = streamer("config", "show")
    assert result.code == 70
    assert "ZeroDivisionError" in result.err
    assert len(result.err.splitlines()) == 1


def test_a_reader_may_leave_early() -> None:
    """`streamer config show | head -1` is no error."""
    shown = subprocess.Popen(
        [sys.executable, "-m", "streamer", "config", "show"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert shown.stdout is not None
    assert shown.stderr is not None
    shown.stdout.close()
    err = shown.stderr.read()
    shown.stderr.close()
    assert (shown.wait(timeout=20), err) == (0, b"")
