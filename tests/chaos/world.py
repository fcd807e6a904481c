"""A small world of one's own on the broker: topics, a model, users that were bootstrapped, events, and workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from schemas.records import Artifact, Control, FactorRecord, Manifest, Policy
from tests.chaos.events import Events, Sent
from tests.chaos.forge import Forge
from tests.chaos.processes import CHECKOUT, WorkerProcess
from tests.oracle.audit import audit
from tests.oracle.hashes import generation_id, item_hash, partition_of, request_hash
from tests.oracle.report import Report
from tests.oracle.rowbytes import Entry, Key, UserRow, encode

START_SECONDS = 120.0
"""Enough for a first start ever, which compiles the solver."""

_DIMENSION = 8
_ITEM_KEY = bytes(range(16))
_MODEL = "chaos-1"


class World:
    """Everything below one topic prefix. As a context manager it stops every process that was started in it."""

    def __init__(
        self,
        bootstrap_servers: str,
        prefix: str,
        folder: Path,
        *,
        partitions: int = 3,
        users: int = 40,
        seed: int = 1,
        model: str = "small",
        solver: str = "cholesky",
        role: str = "users",
        batch_events: int = 40,
        environment: Mapping[str, str] | None = None,
        before: Sequence[Mapping[str, object]] = (),
        forge: Forge | None = None,
    ) -> None:
        """``environment``: more settings; ``before``: what a bootstrapped model is trained on, instead of its own."""
        self._forge = forge
        self.servers, self.prefix, self.folder = bootstrap_servers, prefix, folder
        self.partitions, self.solver, self.role = partitions, solver, role
        self.app_id = f"{prefix.rstrip('.')}-app"
        self.group, self.items_group = f"{self.app_id}-users", f"{self.app_id}-items"
        self.acked: set[tuple[int, int]] = set()
        self.workers: list[WorkerProcess] = []
        self.items = [f"item-{number}" for number in range(60)]
        self.events = Events(seed, users=users, items=self.items, clock=lambda: time.time_ns() // 1_000_000)
        self._users, self._model = users, model
        self._environment = {
            "FACTORS_KAFKA__BOOTSTRAP_SERVERS": bootstrap_servers,
            "FACTORS_KAFKA__PREFIX": prefix,
            "FACTORS_TOPICS__PARTITIONS": str(partitions),
            "FACTORS_ENGINE__APP_ID": self.app_id,
            "FACTORS_ENGINE__SESSION_TIMEOUT_MS": "6000",
            "FACTORS_ENGINE__TRANSACTION_TIMEOUT_MS": "15000",
            "FACTORS_ENGINE__MAX_BATCH_EVENTS": str(batch_events),
            "FACTORS_ENGINE__MAX_PENDING_EVENTS": str(10 * batch_events),
            "FACTORS_ENGINE__SOLVER": solver,
            "FACTORS_LOG__FORMAT": "json",
            "FACTORS_BOOTSTRAP__DIMENSION": str(_DIMENSION),
            "FACTORS_BOOTSTRAP__ITERATIONS": "3",
            "FACTORS_BOOTSTRAP__ARTIFACTS": str(folder / "artifacts"),
            "FACTORS_POLICY__HISTORY_CAPACITY": "20",
            "FACTORS_POLICY__KEYS_CAPACITY": "24",
            "FACTORS_POLICY__SUPPRESS_CAPACITY": "4",
            "PYTHONFAULTHANDLER": "1",
            **(environment or {}),
        }
        self._before = before
        # Java's partitioner: any other would split a user in two.
        self._producer = Producer({"bootstrap.servers": bootstrap_servers, "partitioner": "murmur2_random"})
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers})
        self._probe = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"{prefix}probe",
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 10,
            }
        )

    def __enter__(self) -> Self:
        self.command("streamer", "topics", "create")
        if self._model == "bootstrap":
            self._bootstrap()
        else:
            self._publish_model()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.kill()
        self._probe.close()

    # --- making it ----------------------------------------------------------------------------------------------

    def command(self, *arguments: str) -> str:
        """One of the product's own commands, as an operator would use it; returns what it wrote."""
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=CHECKOUT,
            env={**os.environ, **self._environment},
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A command that goes on beside the test, its words on one pipe; killed at the end if it still runs."""
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=CHECKOUT,
            env={**os.environ, **self._environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def _bootstrap(self) -> None:
        """A model of the product's own bootstrap job, trained on good events of the days before."""
        day = 86_400_000
        before = Events(0, users=self._users, items=self.items, clock=lambda: time.time_ns() // 1_000_000 - 8 * day)
        lines = [sent.value for sent in before.take(2000) if sent.value and b"timestamp" in sent.value]
        lines = [json.dumps(event).encode() for event in self._before] or lines
        file = self.folder / "before.ndjson"
        file.write_bytes(b"\n".join(line.replace(b"\n", b"") for line in lines))
        self.command("bootstrap", "run", "--events", str(file))

    def _publish_model(self) -> None:
        draw = np.random.default_rng(7)
        vectors = draw.normal(scale=0.5, size=(len(self.items), _DIMENSION)).astype(np.float32)
        manifest = _manifest()
        for item_id, vector in zip(self.items, vectors, strict=True):
            self._put("item-factors", item_id, _factor(item_id, "item", vector, self.partitions))
        for user in range(0, self._users, 3):
            self._publish_user(f"u{user}", draw)
        self._put("models", _MODEL, manifest)
        command = Control("activate", _MODEL, time.time_ns() // 1_000_000, f"{self.prefix}item-factors")
        self._put("control", "active", command)
        self._producer.flush(30)

    def _publish_user(self, user_id: str, draw: np.random.Generator) -> None:
        """A user as a bootstrap job would leave it: some history, a key, version 1."""
        at = time.time_ns() // 1_000_000 - 10 * 86_400_000
        vector = draw.normal(size=_DIMENSION).astype(np.float32)
        policy = _manifest().policy
        chosen = draw.choice(len(self.items), size=int(draw.integers(1, 12)), replace=False)
        row = UserRow(
            vector,
            [0] * self.partitions,
            generation=generation_id(_MODEL),
            version=1,
            events=len(chosen),
            event_time=at,
            key_head=1,
            history=[
                Entry(item_hash(self.items[number], _ITEM_KEY), at - int(number) * 1000, 1.5) for number in chosen
            ],
            keys=[Key(request_hash(None, user_id, "before"), 1, at // 1000)],
        )
        number = partition_of(user_id.encode(), self.partitions)
        data = encode(row, policy.history_capacity, policy.keys_capacity)
        self._produce("user-state", user_id.encode(), data, number)
        record = _factor(user_id, "user", vector, self.partitions, events=row.events, event_time=at)
        self._produce("user-factors", user_id.encode(), msgspec.json.encode(record), number)

    def _put(self, topic: str, key: str, value: msgspec.Struct) -> None:
        self._produce(topic, key.encode(), msgspec.json.encode(value))

    def _produce(self, topic: str, key: bytes, value: bytes, number: int = -1) -> None:
        self._producer.produce(f"{self.prefix}{topic}", key=key, value=value, partition=number)

    def make_topic(self, name: str) -> None:
        """One more topic below the prefix, with as many partitions as the others."""
        made = self._admin.create_topics([NewTopic(f"{self.prefix}{name}", self.partitions, 1)])
        for future in made.values():
            future.result(20)

    def produce(self, topic: str, key: bytes, value: bytes) -> None:
        """One record, where Kafka's own clients would put it; waits until it is there."""
        self._produce(topic, key, value)
        if self._producer.flush(30):
            raise TimeoutError("the broker did not acknowledge a record")

    # --- events -------------------------------------------------------------------------------------------------

    def send(self, events: int | Sequence[Sent]) -> None:
        """Send events and wait until each is acknowledged."""
        for sent in self.events.take(events) if isinstance(events, int) else events:
            self.send_soon(sent)
        if self._producer.flush(30):
            raise TimeoutError("the broker did not acknowledge all events")

    def send_soon(self, sent: Sent) -> None:
        """Hand one event to the producer; what was acknowledged so far is noted."""
        number = -1
        if sent.key is None:
            number = 0
        elif sent.astray:
            number = (partition_of(sent.key, self.partitions) + 1) % self.partitions
        self._producer.produce(
            f"{self.prefix}interactions",
            key=sent.key,
            value=sent.value,
            headers=list(sent.headers),
            partition=number,
            on_delivery=self._delivered,
        )
        self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            raise RuntimeError(f"an event was not taken: {error}")
        number, offset = message.partition(), message.offset()
        assert number is not None
        assert offset is not None
        self.acked.add((number, offset))

    # --- workers ------------------------------------------------------------------------------------------------

    def start(self, name: str = "a", patches: Iterable[str] = ()) -> WorkerProcess:
        """Start a worker: ``name`` is its instance id and its store's folder."""
        environment = {
            **self._environment,
            "FACTORS_STATE__DIR": str(self.folder / name / "state"),
            "FACTORS_ENGINE__INSTANCE_ID": name,
        }
        worker = WorkerProcess(name, self.folder / name, environment, list(patches), self.role, self._forge)
        self.workers.append(worker)
        return worker

    def store(self, name: str = "a") -> Path:
        """The folder of a worker's stores."""
        return self.folder / name / "state" / self.group

    # --- looking ------------------------------------------------------------------------------------------------

    def lag(self) -> int:
        """Events, and signals where an item worker runs, that no transaction has accounted for yet."""
        waiting = self._unread("interactions", self.group)
        return waiting + (self._unread("item-signals", self.items_group) if self.role == "all" else 0)

    def _unread(self, name: str, group: str) -> int:
        """Records of a topic that a group has not committed; transaction markers at its end are no records."""
        topic, committed = f"{self.prefix}{name}", self._committed(name, group)
        unread = []
        for number in range(self.partitions):
            low, high = self._probe.get_watermark_offsets(TopicPartition(topic, number), timeout=20)
            first = max(committed.get(number, 0), low)
            if first < high:
                unread.append(TopicPartition(topic, number, first))
        if not unread:
            return 0
        self._probe.assign(unread)
        left, count, deadline = len(unread), 0, time.monotonic() + 20
        while left and time.monotonic() < deadline:
            message = self._probe.poll(1.0)
            if message is None:
                continue
            error = message.error()
            if error is None:
                count += 1
            elif error.code() == KafkaError._PARTITION_EOF:
                left -= 1
            else:
                raise KafkaException(error)
        self._probe.unassign()
        return count + left

    def _committed(self, name: str, group: str) -> dict[int, int]:
        """A group's committed offsets, whatever transaction is open: a dead worker's would hold back the answer."""
        asked = [TopicPartition(f"{self.prefix}{name}", number) for number in range(self.partitions)]
        deadline = time.monotonic() + 20
        while True:
            futures = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, asked)])
            try:
                found = next(iter(futures.values())).result(5).topic_partitions
            except (KafkaException, TimeoutError):
                # A young broker's coordinator is still loading, or has just moved; after a broker's death librdkafka's
                # client may wait for the former one for ever.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
                self._admin = AdminClient({"bootstrap.servers": self.servers})
            else:
                return {tp.partition: tp.offset for tp in found if tp.offset >= 0}

    def owners(self) -> dict[str, list[int]]:
        """The partitions of each worker by its instance id, as the group's coordinator sees it."""
        described = self._admin.describe_consumer_groups([self.group])[self.group].result(20)
        return {
            member.group_instance_id: sorted(tp.partition for tp in member.assignment.topic_partitions)
            for member in described.members
        }

    def wait_caught_up(self, seconds: float = START_SECONDS) -> None:
        """Until nothing waits; fails at once when no worker is left."""

        def caught_up() -> bool:
            if not any(worker.running for worker in self.workers):
                raise RuntimeError(f"no worker is left, {self.lag()} events wait\n{self.last_words()}")
            return not self.lag()

        self.wait_for(caught_up, seconds, lambda: f"{self.lag()} events still wait")

    def wait_for(self, condition: Callable[[], bool], seconds: float, what: Callable[[], str]) -> None:
        """Until the condition holds; fails with the workers' last words."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what()} after {seconds} s\n{self.last_words()}")
            time.sleep(0.05)

    def last_words(self) -> str:
        """The ends of the workers' logs."""
        ends = {worker.log: worker.log.read_text(errors="replace")[-20_000:] for worker in self.workers}
        return "\n".join(f"--- {log.name}\n{text}" for log, text in ends.items())

    def audit(self, *, stores: Sequence[Path] = (), counters: dict[tuple[str, str], int] | None = None) -> Report:
        """The oracle's report on this world; its processes should be at rest."""
        return audit(
            self.servers,
            self.prefix,
            self.group,
            items_group=self.items_group if self.role == "all" else None,
            stores=stores,
            solver=self.solver,
            counters=counters,
            acked=self.acked,
        )


def _manifest() -> Manifest:
    return Manifest(
        model_version=_MODEL,
        dimension=_DIMENSION,
        created_at=0,
        # Small bounds, so that evictions and expired keys are part of every run.
        policy=Policy(history_capacity=20, keys_capacity=24, suppress_capacity=4),
        hyperparameters={},
        training_data_start=0,
        training_data_end=0,
        cut_offsets={},
        counts={},
        dataset_sha256="0" * 64,
        item_key=_ITEM_KEY.hex(),
        average_user=[0.25] * _DIMENSION,
        segments={},
        metrics={},
        gates=[],
        artifact=Artifact("memory://", {}),
        code_version="tests",
        # So that items which the model lacks come in on the way, as they would.
        user_gramian=(40 * np.eye(_DIMENSION))[np.triu_indices(_DIMENSION)].tolist(),
    )


def _factor(
    name: str, kind: str, vector: np.ndarray, partitions: int, *, events: int = 0, event_time: int = 0
) -> FactorRecord:
    body = {
        "id": name,
        "kind": kind,
        "vector": vector.tolist(),
        "dimension": _DIMENSION,
        "model_version": _MODEL,
        "version": 1,
        "events": events,
        "event_time": event_time,
        "items_epoch": [0] * partitions,
    }
    if kind == "user":
        body["suppressed"] = []
    return msgspec.json.decode(json.dumps(body), type=FactorRecord)
