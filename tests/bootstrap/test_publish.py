"""Publishing to a real broker: all of a generation or nothing, once, and never over one that is served."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import orjson
import pytest
from kafka import KafkaProducer

from bootstrap import publish as publishing
from bootstrap.__main__ import main
from bootstrap.broker import client_options, read_to_end
from bootstrap.job import Lineage, Source, lineage, read
from bootstrap.loop import wish
from bootstrap.publish import publish
from bootstrap.served import served
from ops.data import synthetic, write_ndjson
from schemas.commands import RETRAIN_KEY, retrain_request
from schemas.layouts import RowShape, decode_user_rows
from schemas.outcomes import Outcome, Reason
from schemas.records import Control, FactorRecord, Gate, Manifest, Retrain
from streamer.errors import BrokerError, CheckFailed
from streamer.events.hashes import generation_id, partition
from streamer.factors.checksum import items_sha256
from tests.bootstrap.small import KEY, NOW_MS, SHAPE, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ops.broker import FoundBroker
    from streamer.settings import Settings
    from tests.bootstrap.small import Made

    MakeTopic = Callable[..., str]

USERS = ("interactions", "user-factors", "user-state", "dead-letters")
ITEMS = ("item-signals", "item-factors", "item-state", "items")
SINGLE = ("models", "control")


@pytest.fixture
def settings(broker: FoundBroker, prefix: str, tmp_path: Path) -> Settings:
    return settings_of(
        tmp_path,
        FACTORS_KAFKA__BOOTSTRAP_SERVERS=broker.bootstrap_servers,
        FACTORS_KAFKA__PREFIX=prefix,
    )


@pytest.fixture
def ready(settings: Settings, topics: MakeTopic) -> Settings:
    """Settings whose topics are all there: 3 partitions on the user side, 2 on the item side."""
    for names, partitions in ((USERS, 3), (ITEMS, 2), (SINGLE, 1)):
        for name in names:
            topics(name, partitions)
    return settings


def values(settings: Settings, name: str) -> list[Any]:
    return read_to_end(settings, settings.topic(name))[0]


def test_everything_can_be_read_back(ready: Settings, made: Made) -> None:
    """Vectors bit for bit, rows as a worker decodes them, on the partitions where a worker looks for them."""
    told: list[int] = []
    done = publish(ready, made.manifest, made.model, activate=True, now_ms=NOW_MS, on_records=told.append)
    users, version = made.model.users, made.manifest.model_version
    items = {record.key.decode(): record for record in values(ready, "item-factors")}
    assert sorted(items) == made.model.item_ids
    ends = [0, 0]
    for row, item_id in enumerate(made.model.item_ids):
        record = items[item_id]
        factor = msgspec.json.decode(record.value, type=FactorRecord)
        assert np.array(factor.vector, np.float32).tobytes() == made.model.items[row].tobytes()
        assert record.partition == partition(record.key, 2)
        ends[record.partition] = max(ends[record.partition], record.offset + 1)
    shape = RowShape(8, made.manifest.policy.history_capacity, made.manifest.policy.keys_capacity, 2)
    states = {record.key.decode(): record for record in values(ready, "user-state")}
    factors = {record.key.decode(): record for record in values(ready, "user-factors")}
    assert list(states) == list(factors)
    assert sorted(states) == sorted(users.ids)
    rows = decode_user_rows([states[user].value for user in users.ids], shape)
    assert rows.vector.tobytes() == made.model.user_vectors.tobytes()
    assert set(rows.head["generation"].tolist()) == {generation_id(version)}
    assert set(rows.head["version"].tolist()) == {1}
    assert rows.head["entries"].tolist() == np.diff(users.history_start).tolist()
    assert rows.epochs.tolist() == [ends] * len(users.ids)
    for row, user in enumerate(users.ids):
        factor = msgspec.json.decode(factors[user].value, type=FactorRecord)
        assert np.array(factor.vector, np.float32).tobytes() == made.model.user_vectors[row].tobytes()
        assert factor.items_epoch == ends
        assert states[user].partition == factors[user].partition == partition(user.encode(), 3)
    (manifest,) = values(ready, "models")
    checksum = items_sha256(made.model.item_ids, made.model.items)
    expected = msgspec.structs.replace(made.manifest, item_partitions=2, items_sha256=checksum)
    assert msgspec.json.decode(manifest.value, type=Manifest) == expected
    (control,) = values(ready, "control")
    command = msgspec.json.decode(control.value, type=Control)
    assert control.key == b"active"
    assert command == Control("activate", version, NOW_MS, ready.topic("item-factors"))
    assert sum(done.records.values()) == told[-1] == 2 + 2 * len(items) + 2 * len(users.ids)
    own = values(ready, f"item-factors.{version}")
    assert {record.key: record.value for record in own} == {record.key: record.value for record in items.values()}


@pytest.mark.parametrize("activate", [False, True])
def test_a_second_generation_touches_nothing_that_is_served(ready: Settings, made: Made, activate: bool) -> None:
    """Own item topic, manifest, no users; a version is written once; activated, it bears a number of its own."""
    publish(ready, made.manifest, made.model, activate=True, now_ms=NOW_MS)
    with pytest.raises(CheckFailed, match="published already"):
        publish(ready, made.manifest, made.model, activate=activate, now_ms=NOW_MS)
    second = msgspec.structs.replace(made.manifest, model_version="20300101T000000Z-00000000")
    foreign = msgspec.structs.replace(second, item_key="00" * 16)
    with pytest.raises(CheckFailed, match="another item_key"):
        publish(ready, foreign, made.model, activate=activate, now_ms=NOW_MS)
    before = {name: len(values(ready, name)) for name in (*USERS, *ITEMS)}
    done = publish(ready, second, made.model, activate=activate, now_ms=NOW_MS)
    assert {name: len(values(ready, name)) for name in before} == before
    assert done.item_topic == ready.topic(f"item-factors.{second.model_version}")
    assert len(values(ready, f"item-factors.{second.model_version}")) == len(made.model.item_ids)
    known = served(ready)
    assert sorted(known.manifests) == sorted([made.manifest.model_version, second.model_version])
    assert known.active is not None
    chosen = second if activate else made.manifest
    assert known.active.model_version == chosen.model_version
    assert (known.active.generation is not None) == activate
    heritage = lineage(ready, Source(None), lambda size: b"\1" * size, ask_topics=True)
    assert heritage == Lineage(KEY, chosen.model_version)


def test_a_wish_counts_until_a_generation_is_newer(ready: Settings, made: Made) -> None:
    """Also one that waits beside the active one; what is no wish is none."""

    def put(value: bytes) -> None:
        producer = KafkaProducer(**client_options(ready))
        producer.send(ready.topic("control"), key=RETRAIN_KEY, value=value)
        producer.close()

    assert wish(ready) is None
    publish(ready, made.manifest, made.model, activate=True, now_ms=NOW_MS)
    newer = Retrain("retrain", made.manifest.model_version, made.manifest.created_at + 1, "loss", 0.1)
    put(retrain_request(newer)[1])
    assert wish(ready) == newer
    second = msgspec.structs.replace(made.manifest, model_version="m2", created_at=made.manifest.created_at + 1)
    publish(ready, second, made.model, activate=False, now_ms=NOW_MS)
    assert wish(ready) is None
    put(msgspec.json.encode(msgspec.structs.replace(newer, at=newer.at + 1)))
    assert wish(ready) is not None
    put(b"{}")
    assert wish(ready) is None


def test_a_failed_gate_publishes_nothing(ready: Settings, made: Made) -> None:
    """The topics stay empty."""
    bad = msgspec.structs.replace(made.manifest, gates=[Gate("recall", 0.5, 0.1, False)])
    with pytest.raises(CheckFailed, match=r"failed its gates \(recall_over_popularity\)"):
        publish(ready, bad, made.model, activate=True, now_ms=NOW_MS)
    assert not any(values(ready, name) for name in ("item-factors", "user-state", "models", "control"))


def test_a_crash_in_the_middle_leaves_nothing(ready: Settings, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction: what was sent before the crash is never seen, and the next attempt goes through."""

    def crash(*arguments: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_send_users", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            publish(ready, made.manifest, made.model, activate=True, now_ms=NOW_MS)
    assert not any(values(ready, name) for name in ("item-factors", "user-state", "models", "control"))
    publish(ready, made.manifest, made.model, activate=True, now_ms=NOW_MS)
    assert len(values(ready, "user-state")) == len(made.model.users.ids)


def test_topics_are_checked_first(settings: Settings, topics: MakeTopic, made: Made) -> None:
    """Missing topics and unequal partition counts are one sentence, before anything is written."""
    with pytest.raises(BrokerError, match=r"no topic .*user-factors.*streamer topics create"):
        publish(settings, made.manifest, made.model, activate=True, now_ms=NOW_MS)
    for name in (*USERS, *ITEMS, *SINGLE):
        topics(name, 2 if name == "user-state" else 3)
    with pytest.raises(BrokerError, match="need the same partition count") as caught:
        publish(settings, made.manifest, made.model, activate=True, now_ms=NOW_MS)
    assert caught.value.exit_code == 3
    assert f"{settings.topic('user-state')} has 2" in str(caught.value)


def test_the_topic_is_read_to_its_end(ready: Settings) -> None:
    """Committed records only, each partition in order; the cut is the first offset not read; banned items are out."""
    # The broker stamps records itself (LogAppendTime), so the events must be of now.
    now_ms = time.time_ns() // 1_000_000
    events = synthetic.load(3, SHAPE).rebase(now_ms).events[-300:]
    banned = events[0]["item_id"]
    producer = KafkaProducer(**client_options(ready), transactional_id=ready.topic("test"))
    producer.init_transactions()
    producer.begin_transaction()
    entry = b'{"title":"x","state":"banned"}'
    producer.send(ready.topic("items"), key=banned.encode(), value=entry)
    for one in events:
        producer.send(
            ready.topic("interactions"),
            key=one["user_id"].encode(),
            value=msgspec.json.encode(one),
        )
    producer.commit_transaction()
    producer.begin_transaction()
    producer.send(ready.topic("interactions"), key=b"u", value=b"never committed")
    producer.flush()
    producer.abort_transaction()
    producer.close()
    log = read(ready, Source(None), now_ms)
    assert log.records == 300
    assert log.outcomes[Outcome.FILTERED, Reason.INVALID_ITEM] == sum(one["item_id"] == banned for one in events)
    assert sorted(log.cut_offsets) == ["0", "1", "2"]
    for place, cut in log.cut_offsets.items():
        users = [one for one in log.events if partition(one.user_id.encode(), 3) == int(place)]
        nexts = [
            after
            for one, after in zip(log.events, log.nexts, strict=True)
            if partition(one.user_id.encode(), 3) == int(place)
        ]
        assert len(users) == len(nexts)
        assert nexts == sorted(nexts)
        assert nexts[-1] <= cut


def test_no_broker_is_one_sentence(tmp_path: Path, made: Made) -> None:
    """Nothing listens there: said at once, with what to do."""
    settings = settings_of(tmp_path, FACTORS_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1")
    with pytest.raises(BrokerError, match=r"no broker answers at 127\.0\.0\.1:1; start it, or set"):
        publish(settings, made.manifest, made.model, activate=True, now_ms=NOW_MS)


def test_the_whole_run(
    ready: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``bootstrap run`` from a file to an active generation; a dry run writes nothing, a second one takes its place."""
    for name in [name for name in os.environ if name.startswith("FACTORS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FACTORS_KAFKA__BOOTSTRAP_SERVERS", ready.kafka.bootstrap_servers)
    monkeypatch.setenv("FACTORS_KAFKA__PREFIX", ready.kafka.prefix)
    monkeypatch.setenv("FACTORS_BOOTSTRAP__ARTIFACTS", ready.bootstrap.artifacts)
    monkeypatch.setenv("FACTORS_BOOTSTRAP__DIMENSION", "8")

    events = tmp_path / "events.ndjson"
    write_ndjson(events, synthetic.load(3, SHAPE).rebase(time.time_ns() // 1_000_000).events)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["bootstrap", "run", "--events", str(events), *arguments])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    assert run("--dry-run") == 0
    assert not any(values(ready, name) for name in ("item-factors", "user-state", "models", "control"))
    capsys.readouterr()
    assert run("--json") == 0
    said = orjson.loads(capsys.readouterr().out)
    assert said["activated"] is True
    assert served(ready).manifests[said["model_version"]].artifact.uri == said["artifact"]
    # The topics say which model is active; one that foretells much less than it is not announced.
    monkeypatch.setenv("FACTORS_GATES__RECALL_OVER_ACTIVE", "1.5")
    before = {name: len(values(ready, name)) for name in (*USERS, *ITEMS, *SINGLE)}
    assert run() == 1
    assert "is not fit to be published: recall_over_active is 0." in capsys.readouterr().err
    assert {name: len(values(ready, name)) for name in before} == before
    monkeypatch.delenv("FACTORS_GATES__RECALL_OVER_ACTIVE")
    assert run("--no-activate") == 0
    known = served(ready).manifests
    assert len(known) == 2
    later = known[max(known)]
    assert later.parent_version == said["model_version"]
    assert later.metrics["active_recall"] > 0
    assert "recall_over_active" in {gate.name for gate in later.gates}
    assert served(ready).active.model_version == said["model_version"]  # type: ignore[union-attr]
    # A version that is there already is refused by the command too.
    monkeypatch.setattr(sys, "argv", ["bootstrap", "publish", later.artifact.uri, "--no-activate"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "is published already: a version is never written twice" in capsys.readouterr().err
    assert len(served(ready).manifests) == 2
    assert run() == 0
    assert served(ready).active.model_version not in known  # type: ignore[union-attr]
