"""Fixtures for commands: calling them, and a broker with a prefix of one's own."""

from __future__ import annotations

import pytest

from ops.broker import FoundBroker
from streamer.settings import Settings, load_settings
from tests.conftest import MakeTopic
from tests.streamer.commands.calls import Commands


@pytest.fixture
def streamer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    """The command line, in this process."""
    return Commands(monkeypatch, capsys)


@pytest.fixture
def environment(broker: FoundBroker, prefix: str, topics: MakeTopic) -> dict[str, str]:
    """Variables for a broker that answers; what is made below the prefix goes away with the test."""
    assert topics is not None
    return {
        "FACTORS_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "FACTORS_KAFKA__PREFIX": prefix,
        "FACTORS_TOPICS__PARTITIONS": "2",
    }


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    """The settings that the commands of the test see."""
    return load_settings(None, environment)


@pytest.fixture
def connected(streamer: Commands, environment: dict[str, str]) -> Commands:
    """The command line, with all topics made."""
    streamer.environment = environment
    assert streamer("topics", "create").code == 0
    return streamer
