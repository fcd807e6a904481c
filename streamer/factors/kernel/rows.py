"""A row's bytes in and out, as typed sections; the layout is that of `schemas.layouts`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from streamer.factors.kernel.jit import copy, fill, jit
from streamer.factors.kernel.rules import NO_ROW, Rules

HEAD_BYTES = 64
# Where the fields of the head lie in the views of 2, 4 and 8 bytes (schemas/layouts.py).
H_DIMENSION, H_ENTRIES, H_KEYS, H_EPOCHS, H_KEY_HEAD = range(1, 6)
H_EXTRAS, H_CAP_DAY, H_CAP_COUNT = 3, 14, 15
H_GENERATION, H_VERSION, H_EVENTS, H_EVENT_TIME, H_SOURCE_NEXT = range(2, 7)


class Row(NamedTuple):
    """One row as typed sections, and the head seen as numbers of 1, 2, 4 and 8 bytes; reused for every user."""

    head1: Any
    head2: Any
    head4: Any
    head8: Any
    vector: Any
    item: Any
    time: Any
    strength: Any
    request: Any
    fingerprint: Any
    second: Any


@jit()
def class_of(classes: Any, entries: int, keys: int) -> int:
    """The number of the size class that holds so many."""
    number = 0
    while classes[number, 0] < entries or classes[number, 1] < keys:
        number += 1
    return number


@jit()
def load(row: Row, data: Any, at: int, length: int, classes: Any, rules: Rules) -> bool:
    """Read a row's bytes; false where they are not those of a plain user."""
    k, p = rules.dimension, rules.epochs
    if length == NO_ROW:
        fill(row.head8, 0, 0)
        row.head1[0], row.head1[1] = 1, 1
        row.head2[H_DIMENSION], row.head2[H_EPOCHS] = k, p
        fill(row.vector, 0, 0)
        held, kept = 0, 0
    else:
        if length < HEAD_BYTES:
            return False
        copy(data, at, row.head1, 0, HEAD_BYTES)
        head = row.head2
        if row.head1[0] != 1 or row.head1[1] != 1 or row.head4[H_EXTRAS] != 0:
            return False
        if head[H_DIMENSION] != k or head[H_EPOCHS] != p:
            return False
        if head[H_ENTRIES] > rules.history or head[H_KEYS] > rules.keys or head[H_KEY_HEAD] >= rules.keys:
            return False
        number = class_of(classes, head[H_ENTRIES], head[H_KEYS])
        held, kept = classes[number, 0], classes[number, 1]
        if length != HEAD_BYTES + 4 * k + 8 * p + 20 * held + 16 * kept:
            return False
        at += HEAD_BYTES
        copy(data, at, row.vector.view(np.uint8), 0, 4 * k)
        at += 4 * k + 8 * p
        copy(data, at, row.item.view(np.uint8), 0, 8 * held)
        copy(data, at + 8 * held, row.time.view(np.uint8), 0, 8 * held)
        copy(data, at + 16 * held, row.strength.view(np.uint8), 0, 4 * held)
        at += 20 * held
        copy(data, at, row.request.view(np.uint8), 0, 8 * kept)
        copy(data, at + 8 * kept, row.fingerprint.view(np.uint8), 0, 4 * kept)
        copy(data, at + 12 * kept, row.second.view(np.uint8), 0, 4 * kept)
    fill(row.item, held, 0)
    fill(row.time, held, 0)
    fill(row.strength, held, 0)
    fill(row.request, kept, 0)
    fill(row.fingerprint, kept, 0)
    fill(row.second, kept, 0)
    return True


@jit()
def store(row: Row, epochs: Any, out: Any, at: int, classes: Any, rules: Rules) -> Any:
    """Write a row's bytes; returns where they end."""
    number = class_of(classes, row.head2[H_ENTRIES], row.head2[H_KEYS])
    held, kept = classes[number, 0], classes[number, 1]
    copy(row.head1, 0, out, at, HEAD_BYTES)
    at += HEAD_BYTES
    copy(row.vector.view(np.uint8), 0, out, at, 4 * rules.dimension)
    at += 4 * rules.dimension
    copy(epochs, 0, out, at, 8 * rules.epochs)
    at += 8 * rules.epochs
    copy(row.item.view(np.uint8), 0, out, at, 8 * held)
    copy(row.time.view(np.uint8), 0, out, at + 8 * held, 8 * held)
    copy(row.strength.view(np.uint8), 0, out, at + 16 * held, 4 * held)
    at += 20 * held
    copy(row.request.view(np.uint8), 0, out, at, 8 * kept)
    copy(row.fingerprint.view(np.uint8), 0, out, at + 8 * kept, 4 * kept)
    copy(row.second.view(np.uint8), 0, out, at + 12 * kept, 4 * kept)
    return at + 16 * kept
