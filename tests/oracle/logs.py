"""Records of Kafka topics as plain values, and all that one comparison looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record as the broker has it; ``timestamp`` is the broker's, ms."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int = 0
    headers: tuple[tuple[str, bytes | None], ...] = ()


Log = dict[int, list[LogRecord]]
"""A topic: the records of each partition in offset order."""


@dataclass(frozen=True, slots=True)
class StoreRows:
    """One partition's store at rest: its rows, and the changelog offset up to which it says it has read."""

    name: str
    rows: dict[bytes, bytes]
    offset: int


@dataclass(slots=True)
class Logs:
    """The topics of one system at rest, its committed offsets, and where known its stores and its counters.

    Only committed records: whatever an aborted or open transaction wrote is not in here.

    Attributes:
        manifest: the active generation's, as published.
        items: item-factors.
        signals: item-signals.
        item_state, items_committed: changelog and committed offsets of the item side; None where it is not compared.
        catalogue: the items topic.
        ends: of each topic (by the field's name here), the end offset of each partition.
        stores: of each partition every worker's store, or what is wrong with it; None where none is compared.
        counters: the worker's own count by (outcome, reason), where it ran without a break.
        acked: partition and offset of every event that the producer saw acknowledged.
    """

    manifest: bytes
    interactions: Log
    committed: dict[int, int]
    user_state: Log
    user_factors: Log
    dead_letters: Log
    items: Log
    signals: Log
    item_state: Log = field(default_factory=dict)
    items_committed: dict[int, int] | None = None
    catalogue: Log = field(default_factory=dict)
    ends: dict[str, dict[int, int]] = field(default_factory=dict)
    stores: Mapping[int, Sequence[StoreRows | str]] | None = None
    counters: dict[tuple[str, str], int] | None = None
    acked: set[tuple[int, int]] | None = None
