"""Byte layouts of the internal topics and of the rows in RocksDB; all little-endian, no padding.

The layouts are the same in the changelog and in the store. A change of any offset is a new ``FORMAT``.

Head, 64 bytes, of a user row and of an item row::

    0  u1 format (1)       1  u1 kind (1 user, 2 item)    2  u2 dimension k
    4  u2 entries n        6  u2 keys m                   8  u2 epochs p       10 u2 key_head
    12 u4 extras e         16 u8 generation               24 u8 version        32 u8 events
    40 i8 event_time ms    48 i8 source_next              56 u4 cap_day        60 u4 cap_count

User row::

    head | vector k*f4 | items_epoch p*i8 | history | keys | extras, e bytes

    history, 20*H bytes: item hash H*u8 | newest event time of the item, ms H*i8 | strength H*f4
    keys, 16*R bytes:    request hash R*u8 | fingerprint R*u4 | event time, whole seconds R*u4
    extras: MessagePack array, see `Extras`; absent (e = 0) for a user who never suppressed anything and has no segment

H and R are the row's *size class*, the smallest of `size_classes` that holds its n entries and m keys; slots past n
and m are zero. Fixed sizes let a batch of rows be read and written by numpy as a whole, and a young user stays small.
The keys are a ring once all of the policy's ``keys_capacity`` are used: ``key_head`` is the slot written next.

Item row::

    head | vector k*f4 | f4 optimiser state | m origins | n reservoir entries

    origin, 4 + 4k bytes: f4 popularity, vector k*f4: the one that the generation, or the fold-in, gave the item; m is 0
                          where the policy does not ask for it, else 1
    reservoir entry, 12 + 4k bytes: u8 user hash, f4 confidence, user vector k*f4 (of a young item; else n = 0)
    key_head: 0 an item of the generation, 1 one without a vector, 2 one that was folded in
    cap_day, cap_count: the newest UTC day of event time and the signals taken on it, where the policy has a budget

Item signal, pointwise and of a pair::

    0 u1 format (1)  1 u1 kind (3)  2 u2 dimension k  4 f4 confidence  8 i8 event_time ms
    16 u8 user hash  24 u8 generation  32 user vector k*f4

    0 u1 format (2)  1 .. 32 as above  32 f4 score of the pair's other item  36 f4 sign  40 user vector k*f4

    sign: +1 the item was chosen, -1 it was drawn as the other one of a pair

Count of the items that were folded in, under `FOLDED_KEY` among the item rows: a head of kind 4, ``events`` of them.

``version`` counts committed revisions, ``events`` the events applied, ``event_time`` the newest event with an effect,
``source_next`` the offset after the last event with an effect on this row, ``cap_day``/``cap_count`` the applied
events of the newest UTC day (days since 1970). Beside the rows each changelog has one marker record with the empty
key: i8, the next source offset after the transaction that wrote it (`MARKER_KEY`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

FORMAT = 1
PAIR_FORMAT = 2
USER, ITEM, SIGNAL, FOLDED = 1, 2, 3, 4
MARKER_KEY = b""
FOLDED_KEY = b"\xff"
"""No id: it is not UTF-8."""

HEAD = np.dtype(
    [
        ("format", "u1"),
        ("kind", "u1"),
        ("dimension", "<u2"),
        ("entries", "<u2"),
        ("keys", "<u2"),
        ("epochs", "<u2"),
        ("key_head", "<u2"),
        ("extras", "<u4"),
        ("generation", "<u8"),
        ("version", "<u8"),
        ("events", "<u8"),
        ("event_time", "<i8"),
        ("source_next", "<i8"),
        ("cap_day", "<u4"),
        ("cap_count", "<u4"),
    ]
)
HEAD_BYTES = HEAD.itemsize
_GENERATION_AT, _SOURCE_AT = 16, 48
# The same for one row at a time, where numpy would take longer.
_HEAD, _F4 = struct.Struct("<BBHHHHHIQQQqqII"), struct.Struct("<f")

Bytes = bytes | memoryview


class LayoutError(ValueError):
    """A row or signal whose bytes are not of this layout: damaged, or written by another version."""


class Suppression(msgspec.Struct, array_like=True, frozen=True):
    """One item that the user hid, disliked or returned.

    ``until`` is the newest suppressing event's time, ``positive`` the newest positive event's (0 = none known): the
    item is suppressed while ``until >= positive``, in whatever order the events arrive. ``voided`` is the newest
    return's time (0 = none): events up to it give no strength.
    """

    item_id: str
    item: int
    until: int
    voided: int
    positive: int


class Extras(msgspec.Struct, array_like=True, frozen=True):
    """The rare part of a user row.

    ``segment`` is the hash of the segment that the newest event named, 0 for none; ``segment_at`` that event's time.
    """

    suppressed: tuple[Suppression, ...] = ()
    segment: int = 0
    segment_at: int = 0


_EXTRAS_DECODER = msgspec.msgpack.Decoder(Extras)
_EXTRAS_ENCODER = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class RowShape:
    """What all user rows of a generation have in common: dimension k, policy capacities, item partitions p."""

    dimension: int
    history: int
    keys: int
    epochs: int


@cache
def size_classes(shape: RowShape) -> tuple[tuple[int, int], ...]:
    """The (H, R) that a row may have: doubling from 8, each bounded by its capacity."""
    classes, size = [], 8
    while True:
        pair = (min(size, shape.history), min(size, shape.keys))
        classes.append(pair)
        if pair == (shape.history, shape.keys):
            return tuple(classes)
        size *= 2


@cache
def user_row_dtype(shape: RowShape, history: int, keys: int) -> np.dtype[Any]:
    """The fixed part of a user row of size class (history, keys)."""
    return np.dtype(
        [
            ("head", HEAD),
            ("vector", "<f4", (shape.dimension,)),
            ("epochs", "<i8", (shape.epochs,)),
            ("item", "<u8", (history,)),
            ("time", "<i8", (history,)),
            ("strength", "<f4", (history,)),
            ("request", "<u8", (keys,)),
            ("fingerprint", "<u4", (keys,)),
            ("key_time", "<u4", (keys,)),
        ]
    )


_HISTORY_COLUMNS = ("item", "time", "strength")
_KEY_COLUMNS = ("request", "fingerprint", "key_time")


@dataclass(slots=True)
class UserRows:
    """Many user rows as columns; rows are (B,), sections are padded with zeros to the policy's capacities.

    head: (B,) HEAD; vector: (B, k) float32; epochs: (B, p) int64; item (uint64), time (int64, ms), strength
    (float32): (B, H); request (uint64), fingerprint (uint32), key_time (uint32, s): (B, R); extras: row -> Extras.
    """

    shape: RowShape
    head: npt.NDArray[Any]
    vector: npt.NDArray[np.float32]
    epochs: npt.NDArray[np.int64]
    item: npt.NDArray[np.uint64]
    time: npt.NDArray[np.int64]
    strength: npt.NDArray[np.float32]
    request: npt.NDArray[np.uint64]
    fingerprint: npt.NDArray[np.uint32]
    key_time: npt.NDArray[np.uint32]
    extras: dict[int, Extras]

    def __len__(self) -> int:
        return len(self.head)

    def segments(self, which: Sequence[int]) -> npt.NDArray[np.uint64]:
        """The segment's hash of each of the users ``which``, 0 for none."""
        extras = self.extras
        return np.array([extras[user].segment if user in extras else 0 for user in which], np.uint64)


def generation_of(row: bytes) -> int:
    """The generation of a user row or an item row, which both have in the same place."""
    return int.from_bytes(row[_GENERATION_AT : _GENERATION_AT + 8], "little")


def source_next_of(row: bytes) -> int:
    """The source offset after the last event with an effect on a row."""
    return int.from_bytes(row[_SOURCE_AT : _SOURCE_AT + 8], "little", signed=True)


def dimension_of(row: bytes) -> int:
    """The dimension of a row's vector."""
    return int.from_bytes(row[2:4], "little")


def empty_user_rows(count: int, shape: RowShape) -> UserRows:
    """``count`` rows of users that nobody has seen: version 0, no history."""
    whole = np.zeros(count, user_row_dtype(shape, shape.history, shape.keys))
    head = np.zeros(count, HEAD)
    head["format"], head["kind"], head["dimension"], head["epochs"] = (
        FORMAT,
        USER,
        shape.dimension,
        shape.epochs,
    )
    columns = {name: np.zeros(whole[name].shape, whole[name].dtype) for name in whole.dtype.names[1:]}
    return UserRows(shape=shape, head=head, extras={}, **columns)


def decode_user_rows(rows: Sequence[bytes | None], shape: RowShape) -> UserRows:
    """Rows as columns; None stands for a user without a row.

    Raises:
        LayoutError: another format, kind, dimension or number of epochs, a wrong length, or more entries than fit.
    """
    out = empty_user_rows(len(rows), shape)
    found = np.array([position for position, row in enumerate(rows) if row is not None], np.intp)
    if not len(found):
        return out
    present = [row for row in rows if row is not None]
    if min(map(len, present)) < HEAD_BYTES:
        raise LayoutError(f"a user row is shorter than its head of {HEAD_BYTES} bytes")
    head = np.frombuffer(b"".join([row[:HEAD_BYTES] for row in present]), HEAD)
    _check_heads(head, USER, shape.dimension, shape.epochs)
    for (history, keys), members in _by_class(head, shape):
        dtype = user_row_dtype(shape, history, keys)
        chosen = present if len(members) == len(present) else [present[at] for at in members.tolist()]
        extras = head["extras"][members]
        if extras.any():
            for at, row in zip(members.tolist(), chosen, strict=True):
                if len(row) > dtype.itemsize:
                    out.extras[int(found[at])] = _EXTRAS_DECODER.decode(row[dtype.itemsize :])
            chosen = [row[: dtype.itemsize] for row in chosen]
        lengths = np.fromiter(map(len, present), np.int64, len(present))[members]
        if np.any(lengths != dtype.itemsize + extras):
            raise LayoutError("a user row's length does not fit its counts")
        block = np.frombuffer(b"".join(chosen), dtype)
        where = found[members]
        out.head[where], out.vector[where], out.epochs[where] = (
            block["head"],
            block["vector"],
            block["epochs"],
        )
        for name in _HISTORY_COLUMNS:
            getattr(out, name)[where, :history] = block[name]
        for name in _KEY_COLUMNS:
            getattr(out, name)[where, :keys] = block[name]
    return out


def encode_user_rows(rows: UserRows, which: npt.NDArray[np.intp] | None = None) -> list[bytes]:
    """The bytes of each row, or of the rows ``which``; the counts in ``head`` say how much of each section counts."""
    index = np.arange(len(rows)) if which is None else which
    head = rows.head[index]
    head["extras"] = 0
    tails: dict[int, bytes] = {}
    if rows.extras:
        for position, row in enumerate(index.tolist()):
            if row in rows.extras:
                tails[position] = _encode_extras(rows.extras[row])
                head["extras"][position] = len(tails[position])
    encoded: list[bytes] = [b""] * len(index)
    for (history, keys), members in _by_class(head, rows.shape):
        dtype = user_row_dtype(rows.shape, history, keys)
        source = index[members]
        block = np.empty(len(members), dtype)
        block["head"], block["vector"], block["epochs"] = (
            head[members],
            rows.vector[source],
            rows.epochs[source],
        )
        for name in _HISTORY_COLUMNS:
            block[name] = getattr(rows, name)[source, :history]
        for name in _KEY_COLUMNS:
            block[name] = getattr(rows, name)[source, :keys]
        data, size = block.tobytes(), dtype.itemsize
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        if len(members) == len(index):
            encoded = parts
        else:
            for position, part in zip(members.tolist(), parts, strict=True):
                encoded[position] = part
    for position, tail in tails.items():
        encoded[position] += tail
    return encoded


def _encode_extras(extras: Extras) -> bytes:
    """The array, without its last two elements where there is no segment."""
    return _EXTRAS_ENCODER.encode(extras if extras.segment else (extras.suppressed,))


def _by_class(head: npt.NDArray[Any], shape: RowShape) -> Iterator[tuple[tuple[int, int], npt.NDArray[np.intp]]]:
    """Each size class in use with the positions of its rows."""
    classes = size_classes(shape)
    entries, keys = head["entries"], head["keys"]
    if len(head) and (entries.max() > shape.history or keys.max() > shape.keys):
        raise LayoutError(f"a user row holds more than {shape.history} history entries or {shape.keys} keys")
    number = np.maximum(
        np.searchsorted([history for history, _ in classes], entries),
        np.searchsorted([keys for _, keys in classes], keys),
    )
    for chosen in np.unique(number).tolist():
        yield classes[chosen], np.flatnonzero(number == chosen)


@dataclass(slots=True)
class ItemRow:
    """One item row. vector: (k,) float32; reservoir: (n,) of `reservoir_dtype`.

    known: it has a vector; folded: that was folded in, the generation does not have the item. origin: (k,) float32,
    the vector that it had from the generation or from its fold-in; None where the policy asks for neither pull nor
    balance. popularity: relative to the mean of the training, counted on by `streamer.factors.learner` where the policy
    balances. day, count: of its budget.
    """

    generation: int
    version: int
    events: int
    event_time: int
    source_next: int
    vector: npt.NDArray[np.float32]
    optimiser: float = 0.0
    known: bool = True
    reservoir: npt.NDArray[Any] | None = None
    folded: bool = False
    day: int = 0
    count: int = 0
    origin: npt.NDArray[np.float32] | None = None
    popularity: float = 1.0


@cache
def reservoir_dtype(dimension: int) -> np.dtype[Any]:
    """One (user, confidence, vector) of a young item's reservoir."""
    return np.dtype([("user", "<u8"), ("confidence", "<f4"), ("vector", "<f4", (dimension,))])


def encode_item_row(row: ItemRow) -> bytes:
    """The bytes of an item row; an item without a vector (``known`` False) has version 0 and a reservoir."""
    reservoir, origin, vector = row.reservoir, row.origin, row.vector
    head = _HEAD.pack(
        FORMAT,
        ITEM,
        len(vector),
        0 if reservoir is None else len(reservoir),
        0 if origin is None else 1,
        0,
        1 if not row.known else 2 if row.folded else 0,
        0,
        row.generation,
        row.version,
        row.events,
        row.event_time,
        row.source_next,
        row.day,
        row.count,
    )
    parts = [head, vector.astype("<f4", copy=False).tobytes(), _F4.pack(row.optimiser)]
    if origin is not None:
        parts += [_F4.pack(row.popularity), origin.astype("<f4", copy=False).tobytes()]
    if reservoir is not None:
        parts.append(reservoir.tobytes())
    return b"".join(parts)


def decode_item_row(data: Bytes, *, dimension: int) -> ItemRow:
    """The item row of these bytes.

    Raises:
        LayoutError: another format, kind or dimension, or a wrong length.
    """
    fixed = HEAD_BYTES + 4 * dimension + 4
    if len(data) < fixed:
        raise LayoutError(f"an item row is shorter than its {fixed} fixed bytes")
    form, kind, size, count, origins, epochs, state, _, generation, version, events, at, after, day, taken = (
        _HEAD.unpack_from(data)
    )
    if (form, kind, size, epochs) != (FORMAT, ITEM, dimension, 0):
        _check_heads(np.frombuffer(data[:HEAD_BYTES], HEAD), ITEM, dimension, 0)
    entry = reservoir_dtype(dimension)
    rest = fixed + origins * (4 + 4 * dimension)
    if origins > 1 or len(data) != rest + count * entry.itemsize:
        raise LayoutError("an item row's length does not fit its counts")
    return ItemRow(
        generation=generation,
        version=version,
        events=events,
        event_time=at,
        source_next=after,
        vector=np.frombuffer(data, "<f4", dimension, HEAD_BYTES).copy(),
        optimiser=_F4.unpack_from(data, fixed - 4)[0],
        known=state != 1,
        reservoir=np.frombuffer(data, entry, count, rest).copy() if count else None,
        folded=state == 2,
        day=day,
        count=taken,
        origin=np.frombuffer(data, "<f4", dimension, fixed + 4).copy() if origins else None,
        popularity=_F4.unpack_from(data, fixed)[0] if origins else 1.0,
    )


def encode_folded(generation: int, count: int) -> bytes:
    """How many items of a partition a generation has folded in."""
    head = np.zeros(1, HEAD)
    head["format"], head["kind"], head["generation"], head["events"] = FORMAT, FOLDED, generation, count
    return head.tobytes()


def decode_folded(data: Bytes | None, generation: int) -> int:
    """The count of `encode_folded`; 0 where there is none, or another generation's.

    Raises:
        LayoutError: another format, kind or length.
    """
    if data is None:
        return 0
    if len(data) != HEAD_BYTES:
        raise LayoutError(f"a count of folded items has {HEAD_BYTES} bytes, not {len(data)}")
    head = np.frombuffer(data, HEAD)
    _check_heads(head, FOLDED, 0, 0)
    return int(head["events"][0]) if int(head["generation"][0]) == generation else 0


@cache
def signal_dtype(dimension: int, *, pair: bool = False) -> np.dtype[Any]:
    """The item signal's layout for vectors of this dimension; ``pair``: of an item of a pair."""
    pairs = [("other", "<f4"), ("sign", "<f4")] if pair else []
    return np.dtype(
        [
            ("format", "u1"),
            ("kind", "u1"),
            ("dimension", "<u2"),
            ("confidence", "<f4"),
            ("event_time", "<i8"),
            ("user", "<u8"),
            ("generation", "<u8"),
            *pairs,
            ("vector", "<f4", (dimension,)),
        ]
    )


def encode_signals(
    *,
    confidence: npt.NDArray[np.floating[Any]],
    event_time: npt.NDArray[np.int64],
    user: npt.NDArray[np.uint64],
    generation: int,
    vector: npt.NDArray[np.float32],
    pair: tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.floating[Any]]] | None = None,
) -> list[bytes]:
    """One signal an applied event; confidence, event_time, user: (S,), vector: (S, k); pair: (other, sign), each (S,).

    One of a pair for its chosen item and one for the drawn one.
    """
    dtype = signal_dtype(vector.shape[1], pair=pair is not None)
    out = np.empty(len(vector), dtype)
    out["format"], out["kind"], out["dimension"] = FORMAT, SIGNAL, vector.shape[1]
    out["confidence"], out["event_time"], out["user"] = confidence, event_time, user
    out["generation"], out["vector"] = generation, vector
    if pair is not None:
        out["format"] = PAIR_FORMAT
        out["other"], out["sign"] = pair
    data, size = out.tobytes(), dtype.itemsize
    return [data[at : at + size] for at in range(0, len(data), size)]


def decode_signals(values: Sequence[Bytes], *, dimension: int, pair: bool = False) -> npt.NDArray[Any]:
    """(S,) signals of `signal_dtype`.

    Raises:
        LayoutError: another format, kind, dimension or length.
    """
    dtype, expected = signal_dtype(dimension, pair=pair), PAIR_FORMAT if pair else FORMAT
    if any(len(value) != dtype.itemsize for value in values):
        raise LayoutError(f"a signal is not {dtype.itemsize} bytes long")
    signals = np.frombuffer(b"".join(values), dtype)
    if len(signals) and (
        (signals["format"] != expected).any()
        or (signals["kind"] != SIGNAL).any()
        or (signals["dimension"] != dimension).any()
    ):
        raise LayoutError(f"a signal is not of format {expected} and dimension {dimension}")
    return signals


def encode_marker(source_next: int) -> bytes:
    """The changelog marker's value: the source offset that follows the transaction."""
    return int(source_next).to_bytes(8, "little", signed=True)


def decode_marker(data: Bytes) -> int:
    """The source offset in a changelog marker.

    Raises:
        LayoutError: not 8 bytes.
    """
    if len(data) != 8:
        raise LayoutError(f"a changelog marker has 8 bytes, not {len(data)}")
    return int.from_bytes(data, "little", signed=True)


def _check_heads(head: npt.NDArray[Any], kind: int, dimension: int, epochs: int) -> None:
    expected = {"format": FORMAT, "kind": kind, "dimension": dimension, "epochs": epochs}
    for name, value in expected.items():
        wrong = head[name] != value
        if wrong.any():
            found = int(head[name][np.flatnonzero(wrong)[0]])
            raise LayoutError(f"a row has {name} {found} where {value} is expected")
