"""The bytes of a user row, parsed and written from the layout's description alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

_HEAD = struct.Struct("<BBHHHHHIQQQqqII")
_FORMAT, _USER = 1, 1


class RowError(ValueError):
    """Bytes that are no user row of this layout."""


@dataclass(slots=True)
class Entry:
    """One item of a history."""

    item: int
    time: int
    strength: float


@dataclass(frozen=True, slots=True)
class Key:
    """One idempotency key; ``seconds`` is its event's time in whole seconds."""

    request: int
    fingerprint: int
    seconds: int


@dataclass(slots=True)
class Suppressed:
    """One item of the suppression set: newest suppressing, returning and positive event times."""

    item_id: str
    item: int
    until: int
    voided: int
    positive: int


@dataclass(slots=True)
class UserRow:
    """One user row. vector: (k,) float32."""

    vector: npt.NDArray[np.float32]
    epochs: list[int]
    generation: int = 0
    version: int = 0
    events: int = 0
    event_time: int = 0
    source_next: int = 0
    cap_day: int = 0
    cap_count: int = 0
    key_head: int = 0
    history: list[Entry] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    suppressed: list[Suppressed] | None = None
    segment: int = 0
    segment_at: int = 0

    def copy(self) -> UserRow:
        """A row of its own; the vector, which nobody changes in place, is shared."""
        suppressed = None if self.suppressed is None else [replace(one) for one in self.suppressed]
        history = [replace(entry) for entry in self.history]
        return replace(self, history=history, keys=list(self.keys), suppressed=suppressed)


def size_class(entries: int, keys: int, history_capacity: int, keys_capacity: int) -> tuple[int, int]:
    """(H, R): the smallest doubling from 8, each bounded by its capacity, that holds both."""
    size = 8
    while True:
        slots = min(size, history_capacity), min(size, keys_capacity)
        if entries <= slots[0] and keys <= slots[1]:
            return slots
        if slots == (history_capacity, keys_capacity):
            raise RowError(f"{entries} entries and {keys} keys fit no size class")
        size *= 2


def encode(row: UserRow, history_capacity: int, keys_capacity: int) -> bytes:
    """The one right sequence of bytes for this row."""
    slots, ring = size_class(len(row.history), len(row.keys), history_capacity, keys_capacity)
    extras = b""
    if row.suppressed is not None or row.segment:
        entries = [[one.item_id, one.item, one.until, one.voided, one.positive] for one in row.suppressed or []]
        segment = [row.segment, row.segment_at] if row.segment else []
        extras = msgspec.msgpack.encode([entries, *segment])
    head = _HEAD.pack(
        _FORMAT,
        _USER,
        len(row.vector),
        len(row.history),
        len(row.keys),
        len(row.epochs),
        row.key_head,
        len(extras),
        row.generation,
        row.version,
        row.events,
        row.event_time,
        row.source_next,
        row.cap_day,
        row.cap_count,
    )
    pad, empty = [0] * (slots - len(row.history)), [0] * (ring - len(row.keys))
    return b"".join(
        [
            head,
            row.vector.astype("<f4").tobytes(),
            struct.pack(f"<{len(row.epochs)}q", *row.epochs),
            struct.pack(f"<{slots}Q", *(entry.item for entry in row.history), *pad),
            struct.pack(f"<{slots}q", *(entry.time for entry in row.history), *pad),
            struct.pack(f"<{slots}f", *(entry.strength for entry in row.history), *pad),
            struct.pack(f"<{ring}Q", *(key.request for key in row.keys), *empty),
            struct.pack(f"<{ring}I", *(key.fingerprint for key in row.keys), *empty),
            struct.pack(f"<{ring}I", *(key.seconds for key in row.keys), *empty),
            extras,
        ]
    )


def parse(data: bytes, dimension: int, history_capacity: int, keys_capacity: int) -> UserRow:
    """The row in these bytes.

    Raises:
        RowError: not a user row of this layout.
    """
    if len(data) < _HEAD.size:
        raise RowError(f"{len(data)} bytes are no row")
    head = _HEAD.unpack_from(data)
    (
        form,
        kind,
        k,
        entries,
        keys,
        epochs,
        key_head,
        extras,
        generation,
        version,
        events,
        at,
        after,
        day,
        count,
    ) = head
    if (form, kind, k) != (_FORMAT, _USER, dimension):
        raise RowError(f"format {form}, kind {kind}, dimension {k} instead of 1, 1, {dimension}")
    slots, ring = size_class(entries, keys, history_capacity, keys_capacity)
    layout = struct.Struct(f"<{4 * k}s{epochs}q{slots}Q{slots}q{slots}f{ring}Q{ring}I{ring}I")
    if len(data) != _HEAD.size + layout.size + extras:
        raise RowError(f"{len(data)} bytes instead of {_HEAD.size + layout.size + extras}")
    vector, *numbers = layout.unpack_from(data, _HEAD.size)
    parts = iter(numbers)

    def take(number: int) -> list[int]:
        return [next(parts) for _ in range(number)]

    epoch_offsets, item, time, strength = take(epochs), take(slots), take(slots), take(slots)
    request, prints, seconds = take(ring), take(ring), take(ring)
    tail: list[Any] = msgspec.msgpack.decode(data[len(data) - extras :]) if extras else [None]
    segment, segment_at = tail[1:] or (0, 0)
    return UserRow(
        vector=np.frombuffer(vector, "<f4").copy(),
        epochs=epoch_offsets,
        generation=generation,
        version=version,
        events=events,
        event_time=at,
        source_next=after,
        cap_day=day,
        cap_count=count,
        key_head=key_head,
        history=[Entry(*parts_) for parts_ in zip(item, time, strength, strict=True)][:entries],
        keys=[Key(*parts_) for parts_ in zip(request, prints, seconds, strict=True)][:keys],
        suppressed=None if tail[0] is None else [Suppressed(*one) for one in tail[0]],
        segment=segment,
        segment_at=segment_at,
    )
