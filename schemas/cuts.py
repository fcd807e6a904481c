"""The generation that a partition is at, and the offset at which it cut over; one record in each changelog.

Its key, `GENERATION_KEY`, is no UTF-8 and so nobody's id. Value, 17 bytes, little-endian::

    0 u8 generation   8 i8 source offset of the cut   16 u1 settled

``settled`` is 1 from the transaction on after which no row of another generation is left. A partition that has no such
record is at the generation that was published straight into its topics.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

GENERATION_KEY = b"\xffgeneration"
_LAYOUT = struct.Struct("<Qqb")


@dataclass(frozen=True, slots=True)
class Cut:
    """generation: `streamer.events.hashes.generation_id`; offset: the first source record that it applies to."""

    generation: int
    offset: int
    settled: bool


def encode_cut(cut: Cut) -> bytes:
    """The record's value."""
    return _LAYOUT.pack(cut.generation, cut.offset, cut.settled)


def decode_cut(data: bytes) -> Cut:
    """The record of these bytes.

    Raises:
        ValueError: not 17 bytes.
    """
    if len(data) != _LAYOUT.size:
        raise ValueError(f"a cut has {_LAYOUT.size} bytes, not {len(data)}")
    generation, offset, settled = _LAYOUT.unpack(data)
    return Cut(generation, offset, bool(settled))
