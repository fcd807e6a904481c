"""`topics create` and `topics check`, `items publish` and `doctor` on a real broker."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from schemas.records import CatalogueEntry
from schemas.topics import TOPICS
from streamer.commands.cluster import consuming, places_of, read_to_end
from streamer.settings import Settings
from tests.conftest import MakeTopic
from tests.streamer.commands.calls import Commands, process
from tests.streamer.commands.stage import Stage

pytestmark = pytest.mark.integration

_CATALOGUE = '{"item_id": "i1", "title": "One"}\n{"item_id": "i2", "title": "Two", "state": "banned"}\n'


def test_create_then_check(streamer: Commands, environment: dict[str, str]) -> None:
    """All topics of the contract; a second time nothing is left to do."""
    streamer.environment = environment
    first = streamer("topics", "create", "--json").json()
    assert len(first["created"]) == len(TOPICS)
    assert first["differences"] == []
    assert streamer("topics", "create", "--json").json()["created"] == []
    assert streamer("topics", "check", "--json").json() == {"ok": True, "differences": []}
    assert streamer("topics", "check").code == 0


def test_check_reports_every_difference(
    streamer: Commands, environment: dict[str, str], topics: MakeTopic, prefix: str
) -> None:
    """Missing, partition count, cleanup policy, timestamp type, size: all in one answer, nothing is changed."""
    streamer.environment = environment
    topics("interactions", 3, **{"max.message.bytes": "1000", "message.timestamp.type": "CreateTime"})
    topics("user-factors", 2)
    for arguments in (("topics", "check", "--json"), ("topics", "create", "--json")):
        result = streamer(*arguments)
        assert result.code == 1
        found = {(one["topic"], one["what"]): (one["found"], one["wanted"]) for one in result.json()["differences"]}
        assert found[f"{prefix}interactions", "partitions"] == ("3", "2")
        assert found[f"{prefix}interactions", "message.timestamp.type"] == ("CreateTime", "LogAppendTime")
        assert found[f"{prefix}interactions", "max.message.bytes"][0] == "1000"
        assert found[f"{prefix}user-factors", "cleanup.policy"] == ("delete", "compact")
        missing = [topic for topic, what in found if what == "topic"]
        # The first call only looks; the second has made what was missing, and left alone what was there.
        assert len(missing) == (len(TOPICS) - 2 if "check" in arguments else 0)
        assert f"{prefix}interactions" in result.err


def test_a_worker_without_topics_ends_with_code_3(environment: dict[str, str], tmp_path: Path) -> None:
    """It never makes topics itself; one sentence says who does."""
    result = process("run", environment=environment | {"FACTORS_STATE__DIR": str(tmp_path)})
    assert result.code == 3
    assert "run `streamer topics create`" in result.err
    assert "Traceback" not in result.err


def test_create_with_a_catalogue(
    streamer: Commands, environment: dict[str, str], settings: Settings, tmp_path: Path
) -> None:
    """`--items FILE` publishes it as well, keyed by item id."""
    streamer.environment = environment
    file = tmp_path / "items.ndjson"
    file.write_text(_CATALOGUE)
    assert streamer("topics", "create", "--items", str(file)).code == 0
    assert _catalogue(settings) == {"i1": CatalogueEntry("One"), "i2": CatalogueEntry("Two", state="banned")}


def _catalogue(settings: Settings) -> dict[str, CatalogueEntry]:
    with consuming(settings) as consumer:
        records = list(read_to_end(consumer, places_of(consumer, settings.topic("items"))))
    return {record.key.decode(): msgspec.json.decode(record.value, type=CatalogueEntry) for record in records}


def test_a_wrong_catalogue_publishes_nothing(connected: Commands, settings: Settings) -> None:
    """Exit code 4 with the lines that are wrong."""
    bad = _CATALOGUE.encode() + b'{"item_id": "i3", "titel": "x"}\n{"title": "x"}\nnope\n'
    result = connected("items", "publish", "-", stdin=bad)
    assert result.code == 4
    assert [f"\n  line {number}: " in result.err for number in range(1, 6)] == [False, False, True, True, True]
    assert _catalogue(settings) == {}
    assert connected("items", "publish", "-", "--json", stdin=_CATALOGUE.encode()).json() == {"published": 2}


def test_doctor(connected: Commands, settings: Settings) -> None:
    """FAIL with a fix until a model is active; then every check is ok or had nothing to look at."""
    result = connected("doctor", "--json")
    assert result.code == 1
    checks = {one["check"]: one for one in result.json()["checks"]}
    assert (checks["topics"]["status"], checks["model"]["status"]) == ("ok", "FAIL")
    assert checks["model"]["fix"] == "python -m bootstrap run"
    assert checks["dimensions"]["status"] == "skip"
    Stage(settings).activate()
    connected("produce", "-", stdin=json.dumps({"user_id": "u"}).encode())
    result = connected("doctor", "--json")
    checks = {one["check"]: one for one in result.json()["checks"]}
    for name in ("broker", "topics", "model", "dimensions", "clock", "BLAS threads"):
        assert checks[name]["status"] == "ok", checks[name]
    assert {one["status"] for one in checks.values()} <= {"ok", "FAIL"}


def test_doctor_finds_a_wrong_topic(connected: Commands) -> None:
    """Through the same eyes as `topics check`."""
    result = connected("doctor", "--json", FACTORS_TOPICS__PARTITIONS="5")
    (finding,) = [one for one in result.json()["checks"] if one["check"] == "topics"]
    assert finding["status"] == "FAIL"
    assert "partitions is 2, must be 5" in finding["detail"]
