"""The newest committed vectors of a factor topic, and which event each stems from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from types import TracebackType
from typing import Any, Literal, Self

from kafka import KafkaConsumer, TopicPartition

from streamer.reader import Factor, decode_factor

Source = tuple[int, int]
"""Partition and offset of the newest event in a vector."""


class Vectors:
    """Follows a factor topic from its start, `read_committed`; ``newest``: id -> factor."""

    def __init__(self, servers: str, prefix: str, kind: Literal["user", "item"]) -> None:
        self.newest: dict[str, Factor] = {}
        self._kind: Literal["user", "item"] = kind
        self._consumer: Any = KafkaConsumer(
            bootstrap_servers=servers.split(","),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=20,
            max_partition_fetch_bytes=4 << 20,
        )
        topic = f"{prefix}{kind}-factors"
        self._places = [TopicPartition(topic, number) for number in sorted(self._consumer.partitions_for_topic(topic))]
        self._consumer.assign(self._places)
        self._consumer.seek_to_beginning(*self._places)

    def catch_up(self) -> None:
        """Read to the present end."""
        ends = self._consumer.end_offsets(self._places)
        while any(self._consumer.position(place) < ends[place] for place in self._places):
            for _ in self.arrived(200):
                pass

    def arrived(self, wait_ms: int) -> Iterator[tuple[Factor, Source | None]]:
        """What came since, waiting for the first of it so long; None where no event is named, as from the job."""
        for records in self._consumer.poll(timeout_ms=wait_ms).values():
            for record in records:
                factor = decode_factor(record, self._kind)
                known = self.newest.get(factor.id)
                if known is None or factor.version > known.version:
                    self.newest[factor.id] = factor
                    yield factor, _source(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        with closing(self._consumer):
            pass


def _source(record: Any) -> Source | None:
    text = dict(record.headers).get("factors.source")
    if not text:
        return None
    _, partition, offset = text.decode().rsplit("/", 2)
    return int(partition), int(offset)
