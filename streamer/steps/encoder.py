"""Plain users' rows, vectors and signals straight into Kafka's bytes (`streamer.steps.kernel.publish`).

`streamer.steps.records.Publisher` and `UserStep` do the same record by record, for everyone else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from streamer.factors.kernel import rules
from streamer.steps.compiled import Plain
from streamer.steps.effects import Effects, Encoded
from streamer.steps.fold import Columns
from streamer.steps.records import AVERAGE, HISTORY, Publisher
from streamer.steps.wire import HEADER, header_bytes

LIMIT = 950_000
"""Bytes of a record batch at most, unless one record has more."""

_KERNEL = "streamer.steps.kernel.publish"
_KEPT = 12  # pieces of memory that are kept, three a batch
_RECORD = 48  # what a record takes at most beside key, value and headers


class Encoder:
    """Writes what a batch of plain users publishes; needs the compiler that `Plain` needs, too."""

    def __init__(
        self, publisher: Publisher, generation: int, targets: int, interactions: str, factors: str, signals: str
    ) -> None:
        """``targets``: partitions of the topic of signals; the others are full topic names."""
        self._kernel: Any = importlib.import_module(_KERNEL)
        digits: Any = importlib.import_module("streamer.steps.kernel.digits")
        self._tens, self._widest = digits.TENS, digits.WIDEST
        self._publisher, self._targets = publisher, targets
        self._generation = int(np.uint64(generation).astype(np.int64))
        self._interactions, self._factors_topic, self._signals_topic = interactions, factors, signals
        self._free: list[npt.NDArray[np.uint8]] = []

    def encode(
        self,
        keys: Sequence[bytes],
        columns: Columns,
        plain: Plain,
        partition: int,
        epochs: Sequence[int],
        traces: dict[int, bytes],
        effects: Effects,
    ) -> None:
        """Put rows, factor records and signals into ``effects``.

        Args:
            keys: of all users of the batch.
            columns: all events of the batch.
            plain: what became of the plain users.
            partition: the events' partition.
            epochs: the item epochs of the vectors.
            traces: position among the touched users -> traceparent.
            effects: takes them.
        """
        data, ends = _joined(keys)
        self._rows(keys, plain, effects, data, ends)
        parts = self._publisher.parts(epochs, f"{self._interactions}/{partition}/".encode())
        factors = self._factors(plain, data, ends, parts, traces, effects)
        effects.encoded[self._factors_topic, partition] = [one for _, one in factors]
        names = np.array([xxh3_64_intdigest(keys[user]) for user in plain.numbers[:, rules.N_USER].tolist()], np.uint64)
        for target, signals in self._signals(columns, plain, names, effects):
            effects.encoded.setdefault((self._signals_topic, target), []).append(signals)

    def reuse(self, effects: Effects) -> None:
        """Write to this memory again: it is mapped already, and leaves no holes where it was."""
        self._free += effects.memory[: _KEPT - len(self._free)]
        effects.memory = []

    def _room(self, size: int, records: int, effects: Effects) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Where the kernel writes: bytes, and one line a record batch at most a record each."""
        size += HEADER * (records + 1)
        try:
            out = self._free.pop()
        except IndexError:
            out = np.empty(size, np.uint8)
        if len(out) < size:
            out = np.empty(size + size // 4, np.uint8)
        effects.memory.append(out)
        return out, np.empty((records + 1, 3), np.int64)

    def _rows(
        self, keys: Sequence[bytes], plain: Plain, effects: Effects, data: bytes, ends: npt.NDArray[np.int64]
    ) -> None:
        numbers, rows = plain.numbers, plain.rows.tobytes()
        users, row_ends = numbers[:, rules.N_USER].tolist(), numbers[:, rules.N_END].tolist()
        effects.rows += [
            (keys[user], rows[start:end]) for user, start, end in zip(users, [0, *row_ends], row_ends, strict=False)
        ]
        size = len(rows) + len(data) + _RECORD * len(numbers)
        written = self._write(
            self._kernel.write_changelog, size, len(numbers), effects, _array(data), ends, plain.rows, numbers
        )
        effects.changelog = [one for _, one in written]

    def _factors(
        self,
        plain: Plain,
        data: bytes,
        ends: npt.NDArray[np.int64],
        parts: Sequence[bytes],
        traces: dict[int, bytes],
        effects: Effects,
    ) -> list[tuple[int, Encoded]]:
        numbers, dimension, extras = plain.numbers, self._publisher.dimension, (HISTORY, AVERAGE)
        texts, text_ends = _joined(parts)
        first, second = len(extras[0]), len(extras[0]) + len(extras[1])
        cold = (numbers[:, rules.N_AVERAGE] != 0)[:, None]
        extra_of = np.where(cold, np.array([first, second]), np.array([0, first]))
        trace_of = np.zeros((len(numbers), 2), np.int64)
        trace = b""
        for position, parent in traces.items():
            header = header_bytes("traceparent", parent)
            trace_of[position] = len(trace), len(trace) + len(header)
            trace += header
        size = len(numbers) * (len(texts) + max(map(len, extras)) + self._widest * dimension + 120 + _RECORD)
        return self._write(
            self._kernel.write_factors,
            size + 9 * len(data) + len(trace),
            len(numbers),
            effects,
            _array(data),
            ends,
            plain.vectors,
            numbers,
            _array(texts),
            text_ends,
            _array(b"".join(extras)),
            np.ascontiguousarray(extra_of, np.int64),
            _array(trace),
            trace_of,
            self._tens,
            self._publisher.encoding == "f32le",
        )

    def _signals(
        self, columns: Columns, plain: Plain, names: npt.NDArray[np.uint64], effects: Effects
    ) -> list[tuple[int, Encoded]]:
        applied, dimension = plain.applied, self._publisher.dimension
        if not len(applied):
            return []
        items, ends = _joined([item_id.encode() for item_id in columns.item_id])
        size = len(items) + len(applied) * (self._kernel.SIGNAL_HEAD + 4 * dimension + _RECORD)
        return self._write(
            self._kernel.write_signals,
            size,
            len(applied),
            effects,
            _array(items),
            ends,
            columns.packed,
            applied,
            plain.owner,
            plain.confidence,
            names,
            plain.vectors,
            self._generation,
            self._targets,
        )

    def _write(
        self, kernel: Callable[..., int], size: int, records: int, effects: Effects, *arguments: Any
    ) -> list[tuple[int, Encoded]]:
        """Have a function of the kernel write so many records, ``size`` bytes at most: (target, records) by batch."""
        out, chunks = self._room(size, records, effects)
        count = kernel(out, chunks, LIMIT, *arguments)
        view, found, start = memoryview(out.data), [], 0
        for target, end, number in chunks[:count].tolist():
            found.append((target, Encoded(view[start:end], number)))
            start = end
        return found


def _joined(texts: Sequence[bytes]) -> tuple[bytes, npt.NDArray[np.int64]]:
    """Texts end to end, and where each ends."""
    return b"".join(texts), np.fromiter(accumulate(map(len, texts)), np.int64, len(texts))


def _array(data: bytes) -> npt.NDArray[np.uint8]:
    """The bytes as an array; the compiled functions take no empty one."""
    return np.frombuffer(data or b"\0", np.uint8)
