"""Each reason and each outcome of the contract, with a real record on a real broker and a real worker.

The partition goes on after every one of them, the dead letter has the original bytes, and the counts add up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError
from urllib.request import urlopen

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition

from ops.broker import FoundBroker
from schemas.records import CatalogueEntry
from tests.chaos.events import Sent
from tests.chaos.processes import WorkerProcess
from tests.chaos.world import World, _manifest
from tests.oracle.audit import audit

DAY_MS = 86_400_000
REASON = "factors.reason"


def body(**changes: Any) -> dict[str, Any]:
    """A good event of one user."""
    good = {
        "request_id": "one",
        "user_id": "u1",
        "item_id": "item-1",
        "event_type": "click",
        "timestamp": time.time_ns() // 1_000_000,
        "tenant": "ours",
    }
    return good | changes


def sent(request: str, key: str = "u1", astray: bool = False, **changes: Any) -> Sent:
    return Sent(key.encode(), json.dumps(body(request_id=request, **changes)).encode(), astray=astray)


def raw(value: bytes | None, key: bytes | None = b"u1") -> Sent:
    return Sent(key, value)


def cases() -> dict[str, tuple[Sent, str, str]]:
    """Name: what is sent, outcome, reason."""
    now = time.time_ns() // 1_000_000
    number = json.dumps(body(request_id="n1"))[:-1]
    return {
        "too large": (sent("big", context={"x": "y" * 70_000}), "dead_letter", "too_large"),
        "not UTF-8": (raw(b'{"request_id":"\xff\xfe"}'), "dead_letter", "not_utf8"),
        "not JSON": (raw(b"{half of an"), "dead_letter", "not_json"),
        "no value": (raw(None), "dead_letter", "not_json"),
        "unknown type": (sent("u", event_type="clik"), "dead_letter", "unknown_event_type"),
        "missing field": (raw(b'{"request_id":"r"}'), "dead_letter", "schema"),
        "unknown field": (sent("f", colour="red"), "dead_letter", "schema"),
        "value of zero": (sent("z", value=0), "dead_letter", "schema"),
        "not a number": (raw(f'{number},"value":NaN}}'.encode()), "dead_letter", "bad_number"),
        "overflow": (raw(f'{number},"value":1e999}}'.encode()), "dead_letter", "bad_number"),
        "another key": (sent("k", key="somebody-else"), "dead_letter", "key_mismatch"),
        "no key": (raw(json.dumps(body()).encode(), None), "dead_letter", "key_mismatch"),
        "wrong partition": (
            sent("w", key="newcomer", user_id="newcomer", astray=True),
            "dead_letter",
            "wrong_partition",
        ),
        "future": (sent("t", timestamp=now + DAY_MS), "dead_letter", "future"),
        "no consent": (sent("c", consent=False), "filtered", "no_consent"),
        "bot": (sent("b", traffic="bot"), "filtered", "bot"),
        "internal": (sent("i", traffic="internal"), "filtered", "internal"),
        "another tenant": (sent("e", tenant="other"), "filtered", "wrong_tenant"),
        "withdrawn item": (sent("v", item_id="item-withdrawn"), "filtered", "invalid_item"),
        "set aside": (sent("s", event_type="report"), "filtered", "set_aside"),
        "outside the window": (sent("o", timestamp=now - 100 * DAY_MS), "filtered", "outside_window"),
        "late": (sent("l", timestamp=now - 8 * DAY_MS), "late", ""),
        "applied": (sent("a", timestamp=now), "applied", ""),
        "duplicate": (sent("a", timestamp=now), "duplicate", ""),
        "conflict": (sent("a", timestamp=now, item_id="item-2"), "conflict", ""),
        "suppressed": (sent("h", event_type="hide"), "suppressed", ""),
        "capped": (sent("p", key="u2", user_id="u2", item_id="item-3"), "filtered", "capped"),
    }


class StrictWorld(World):
    """A world whose worker serves one tenant, with a cap on strength and a withdrawn item."""

    def __init__(self, servers: str, prefix: str, folder: Path, *, solver: str) -> None:
        super().__init__(servers, prefix, folder, solver=solver)
        self._environment["FACTORS_EVENTS__TENANT"] = "ours"

    def _publish_model(self) -> None:
        super()._publish_model()
        plain = _manifest()
        strict = msgspec.structs.replace(plain, policy=msgspec.structs.replace(plain.policy, cap_item_strength=45.0))
        self._put("models", plain.model_version, strict)
        self._put("items", "item-withdrawn", CatalogueEntry("gone", state="withdrawn"))
        self._producer.flush(30)


@pytest.fixture(scope="module", params=["cholesky", "cg"])
def world(
    broker: FoundBroker, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[World]:
    """With the reference, and with the solver that serves, whose kernel decides and writes most of it."""
    prefix, folder = f"bad-input-{time.time_ns()}.", tmp_path_factory.mktemp("bad-input")
    with StrictWorld(broker.bootstrap_servers, prefix, folder, solver=request.param) as made:
        yield made


def readiness(worker: WorkerProcess) -> list[tuple[int, dict[str, Any]]]:
    """What /readyz answers from the first answer until it is ready."""
    seen: list[tuple[int, dict[str, Any]]] = []
    deadline = time.monotonic() + 30
    while not (seen and seen[-1][0] == 200):
        assert time.monotonic() < deadline, f"not ready: {seen[-1:]} {worker.log.read_text()[-2000:]}"
        try:
            with urlopen(f"http://127.0.0.1:{worker.port}/readyz", timeout=5) as answer:
                seen.append((answer.status, json.load(answer)))
        except HTTPError as answer:
            seen.append((answer.code, json.load(answer)))
        except OSError:
            assert worker.running, worker.log.read_text()[-2000:]
        time.sleep(0.02)
    return seen


def letters(world: World) -> list[tuple[bytes | None, bytes | None, dict[str, bytes]]]:
    """All dead letters of the world."""
    reader = Consumer(
        {
            "bootstrap.servers": world.servers,
            "group.id": "unused",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    topic = f"{world.prefix}dead-letters"
    reader.assign([TopicPartition(topic, number, 0) for number in range(world.partitions)])
    found, ended = [], 0
    while ended < world.partitions:
        message = reader.poll(10)
        assert message is not None, "the dead letters could not be read"
        if message.error():
            ended += 1
            continue
        headers: dict[str, bytes] = dict(cast("list[tuple[str, bytes]]", message.headers() or []))
        found.append((message.key(), message.value(), headers))
    reader.close()
    return found


def test_every_reason_is_met_and_the_partition_goes_on(world: World) -> None:
    """All records in one stream, a good event behind each; then the oracle and the dead letters are asked."""
    planned = cases()
    readiness(world.start("a"))
    world.send([sent("first-2", key="u2", user_id="u2", item_id="item-3", event_type="purchase", value=10)])
    for number, (record, _, _) in enumerate(planned.values()):
        world.send([record, sent(f"after-{number}")])
    world.wait_caught_up()
    counted = world.workers[0].counters()
    world.workers[0].stop()

    expected: dict[tuple[str, str], int] = {("applied", ""): 1 + len(planned)}
    for _, outcome, reason in planned.values():
        expected[outcome, reason] = expected.get((outcome, reason), 0) + 1
    assert {ending: count for ending, count in counted.items() if count} == expected

    report = audit(
        world.servers,
        world.prefix,
        world.group,
        stores=[world.store()],
        solver=world.solver,
        tenant="ours",
        counters=counted,
        acked=world.acked,
    )
    assert report.good, str(report)

    kept = letters(world)
    for name, (record, outcome, reason) in planned.items():
        if outcome not in ("dead_letter", "conflict"):
            continue
        wanted = reason or "conflict"
        match = [one for one in kept if one[1] == record.value and one[2][REASON].decode() == wanted]
        assert match, f"{name}: no dead letter with these bytes and the reason {wanted}"
        # A record without key and value cannot be stored as such: its dead letter has an empty key.
        assert json.loads(match[0][2]["factors.errors"]), f"{name}: nothing says what is wrong with it"
        assert match[0][0] == record.key or (record.key is None and record.value is None), name
    assert len(kept) == sum(outcome in ("dead_letter", "conflict") for _, outcome, _ in planned.values())


def test_a_dead_letter_explains_every_error(world: World) -> None:
    """Not only the first: each with its JSON path, in a header that a tool can parse."""
    found = [headers for _, value, headers in letters(world) if value == b'{"request_id":"r"}']
    assert found, "run after the test above"
    errors = json.loads(found[0]["factors.errors"])
    assert {error["path"] for error in errors} >= {"$.user_id", "$.item_id", "$.event_type", "$.timestamp"}
    assert found[0]["__streams.errors.topic"].decode() == f"{world.prefix}interactions"
    assert b"__streams.errors.message" not in found[0]["factors.errors"]


def test_readiness_is_true_only_after_restore(world: World) -> None:
    """A worker answers 503 with a reason in words until every partition is restored, then 200."""
    worker = world.start("late-comer")
    seen = readiness(worker)
    worker.stop()
    assert seen[0][0] == 503
    assert all(answer["reason"] for status, answer in seen if status == 503)
    assert seen[-1][1]["ready"] is True
