"""A served model on a real broker without a worker: the worker's own step makes rows and vectors, we send them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from schemas.layouts import MARKER_KEY, encode_marker
from schemas.records import Control, Manifest, Policy
from streamer.commands.cluster import consuming, places_of, producing
from streamer.events.hashes import partition
from streamer.events.read import Reader
from streamer.factors.ridge import ridge_in
from streamer.settings import Settings
from streamer.steps.items import Items
from streamer.steps.records import Publisher
from streamer.steps.user import UserStep, UserTopics
from tests.streamer.steps.world import FakeRecord, manifest, record

PARTITIONS = 2


class Stage:
    """Publishes a generation of random item vectors, then whatever the user step makes of events."""

    def __init__(self, settings: Settings, policy: Policy | None = None, *, items: int = 20, **changes: Any) -> None:
        self.settings, self.policy = settings, policy or Policy()
        self.manifest: Manifest = msgspec.structs.replace(manifest(self.policy), **changes)
        self.items = Items(
            dimension=8,
            ridge=ridge_in(self.manifest),
            item_key=bytes.fromhex(self.manifest.item_key),
            partitions=PARTITIONS,
        )
        self._rows: dict[bytes, bytes] = {}
        self._offset = 0
        self._ids = [f"i{number}" for number in range(items)]
        self.publish_manifest()
        self.publish_items(1, seed=0)
        self.items.settle()

    def publish_manifest(self) -> None:
        """The manifest alone: announced, not active."""
        self._send(
            [(self.settings.topic("models"), self.manifest.model_version.encode(), msgspec.json.encode(self.manifest))]
        )

    def activate(self) -> None:
        """The standing command."""
        command = Control("activate", self.manifest.model_version, 0, self.settings.topic("item-factors"))
        self._send([(self.settings.topic("control"), b"active", msgspec.json.encode(command))])

    def publish_items(self, version: int, *, seed: int, topic: str | None = None) -> None:
        """Vectors for all items; the view of the step follows."""
        vectors = np.random.default_rng(seed).standard_normal((len(self._ids), 8)).astype(np.float32)
        publisher = Publisher("item", "test", self.manifest.model_version, 8, 7, "json")
        ids, count = [item.encode() for item in self._ids], len(self._ids)
        numbers = [0] * count
        records = publisher.records(
            ids, vectors, [version] * count, numbers, numbers, [b""] * count, [b""] * count, [], {}
        )
        topic = topic or self.settings.topic("item-factors")
        self._send([(topic, key, value, headers) for key, value, _, headers in records])
        self.items.put(self._ids, [version] * count, vectors)
        with consuming(self.settings) as consumer:
            ends = consumer.end_offsets(places_of(consumer, topic))
        for place, end in ends.items():
            self.items.epochs[place.partition] = end

    def events(self, *bodies: dict[str, Any]) -> None:
        """Apply events as a worker would, and send all that it would."""
        by_partition: defaultdict[int, list[FakeRecord]] = defaultdict(list)
        for body in bodies:
            number = partition(body["user_id"].encode(), PARTITIONS)
            now = time.time_ns() // 1_000_000
            by_partition[number].append(record(self._offset, body, partition=number, timestamp=now))
            self._offset += 1
        step = self._step()
        for number, records in by_partition.items():
            self._apply(step, number, records)

    def _step(self) -> UserStep:
        topic = self.settings.topic
        return UserStep(
            self.manifest,
            self.items,
            UserTopics(
                topic("interactions"), topic("user-factors"), topic("item-signals"), topic("dead-letters"), PARTITIONS
            ),
            Reader(self.policy, tenant=None, max_bytes=65_536, invalid_items=self.items.invalid),
            solver="cholesky",
            tolerance=1e-6,
            encoding=self.settings.factors.encoding,
            source="test",
        )

    def _apply(self, step: UserStep, number: int, records: list[FakeRecord]) -> None:
        batch = step.read(records, number)
        effects = step.apply(batch, [self._rows.get(key) for key in batch.keys])
        self._rows.update(effects.rows)
        state = self.settings.topic("user-state")
        sends: list[tuple[Any, ...]] = [(state, key, row, [], number) for key, row in effects.rows]
        sends.append((state, MARKER_KEY, encode_marker(1), [], number))
        for (topic, target), outgoing in effects.sends.items():
            sends += [(topic, key, value, headers, target) for key, value, _, headers in outgoing]
        self._send(sends)

    def spoil(self, user_id: str) -> None:
        """Publish a vector that no solve gives, under the version of the row: what an audit must find."""
        publisher = Publisher("user", "test", self.manifest.model_version, 8, 7, "json")
        key, vector = user_id.encode(), np.full((1, 8), 0.5, np.float32)
        version = int.from_bytes(self._rows[key][24:32], "little")
        ((_, value, _, headers),) = publisher.records([key], vector, [version], [1], [0], [b""], [b""], [0, 0], {})
        # A tombstone first: a record of a known version would be passed over.
        topic = self.settings.topic("user-factors")
        self._send([(topic, key, None), (topic, key, value, headers)])

    def _send(self, records: Iterable[tuple[Any, ...]]) -> None:
        with producing(self.settings) as producer:
            for one in records:
                producer.send(*one)
