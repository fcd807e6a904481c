"""The hashes of ids, requests, payloads and generations, and Kafka's partitioner, from the specification."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import xxhash


def item_hash(item_id: str, key: bytes) -> int:
    """Keyed BLAKE2b, 8 bytes, little-endian; never 0."""
    (number,) = struct.unpack("<Q", hashlib.blake2b(item_id.encode(), digest_size=8, key=key).digest())
    return int(number) or 1


def request_hash(tenant: str | None, user_id: str, request_id: str) -> int:
    """XXH3 of tenant, user and request id, separated by zero bytes; never 0."""
    text = b"\x00".join(part.encode() for part in (tenant or "", user_id, request_id))
    return xxhash.xxh3_64(text, seed=0).intdigest() or 1


def fingerprint(event: dict[str, Any]) -> int:
    """32 bits of XXH3 of the canonical form of what an event says."""
    context = event.get("context")
    spelled = ""
    if context is not None:
        spelled = json.dumps(context, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    item_id = event["item_id"]
    fields = [
        f"{len(item_id)}:{item_id}",
        event["event_type"],
        str(event["timestamp"]),
        repr(float(event.get("value", 1.0))),
        event.get("tenant") or "",
        str(event.get("consent")),
        event.get("traffic") or "",
        spelled,
    ]
    return xxhash.xxh3_64("|".join(fields).encode(), seed=0).intdigest() & 0xFFFFFFFF


def generation_id(model_version: str) -> int:
    """The first 8 bytes of SHA-256, little-endian."""
    (number,) = struct.unpack("<Q", hashlib.sha256(model_version.encode()).digest()[:8])
    return int(number)


def segment_hash(name: str) -> int:
    """XXH3 of the segment's name, never 0."""
    return xxhash.xxh3_64(name.encode(), seed=0).intdigest() or 1


def partition_of(key: bytes, partitions: int) -> int:
    """Where Kafka's Java client sends this key: MurmurHash2 with its seed, sign bit off, modulo."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    mask, mixer = 0xFFFFFFFF, 0x5BD1E995
    state = (0x9747B28C ^ len(data)) & mask
    tail_at = len(data) - len(data) % 4
    for (word,) in struct.iter_unpack("<I", data[:tail_at]):
        word = (word * mixer) & mask
        word ^= word >> 24
        word = (word * mixer) & mask
        state = ((state * mixer) & mask) ^ word
    tail = data[tail_at:]
    if tail:
        for position, byte in enumerate(tail):
            state ^= byte << (8 * position)
        state = (state * mixer) & mask
    state ^= state >> 13
    state = (state * mixer) & mask
    return state ^ (state >> 15)
