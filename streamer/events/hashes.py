"""The hashes that rows, generations and partitions are known by; every implementation must agree to the bit.

A hash of 0 marks an empty slot in a row, so no id has it: 0 becomes 1.
"""

import json
from hashlib import blake2b, sha256

from xxhash import xxh3_64_intdigest

from schemas.records import Interaction, Scalar

ITEM_KEY_BYTES = 16
_MASK32 = 0xFFFF_FFFF


def item_hash(item_id: str, key: bytes) -> int:
    """The 64-bit name of an item inside rows.

    Keyed (16 bytes, the manifest's ``item_key``), so that a producer cannot search for ids that collide.
    """
    digest = blake2b(item_id.encode(), digest_size=8, key=key).digest()
    return int.from_bytes(digest, "little") or 1


def request_hash(tenant: str | None, user_id: str, request_id: str) -> int:
    """The 64-bit idempotency key: a request id counts within one user of one tenant."""
    return xxh3_64_intdigest(f"{tenant or ''}\0{user_id}\0{request_id}".encode()) or 1


def fingerprint(event: Interaction) -> int:
    """The 32-bit hash of what an event says, in canonical form.

    The envelope, the spelling of the JSON and ``schema_version`` do not count: a retry that changes only
    these is still a duplicate, not a conflict.
    """
    item_id, value = event.item_id, event.value
    # Nearly every event has the value 1.0 and no optional field; this is the hot path.
    if (
        value == 1.0
        and event.tenant is None
        and event.consent is None
        and event.traffic is None
        and event.context is None
    ):
        canonical = f"{len(item_id)}:{item_id}|{event.event_type}|{event.timestamp}|1.0||None||"
    else:
        canonical = f"{len(item_id)}:{item_id}|{event.event_type}|{event.timestamp}|{value!r}{_optional(event)}"
    return xxh3_64_intdigest(canonical.encode()) & _MASK32


def segment_name(context: dict[str, Scalar] | None, key: str) -> str:
    """The segment that an event's context names under ``key``; empty for none. Numbers and booleans as in JSON."""
    value = None if context is None else context.get(key)
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def segment_hash(name: str) -> int:
    """The 64-bit name of a user's segment inside rows; 0 is no segment."""
    return (xxh3_64_intdigest(name.encode()) or 1) if name else 0


def generation_id(model_version: str) -> int:
    """The 64-bit name of a model generation inside rows."""
    return int.from_bytes(sha256(model_version.encode()).digest()[:8], "little")


def activation_id(model_version: str, at: int) -> int:
    """The same of one activation (at ``at``, ms) of a model that took the place of another.

    A model that is activated twice is served twice from its trained vectors: signals of the first time, and rows that
    were solved then, are of another generation than those of the second.
    """
    return generation_id(f"{model_version}@{at}")


def partition(key: bytes, partitions: int) -> int:
    """The partition that Kafka's own clients send this key to."""
    return (murmur2(key) & 0x7FFF_FFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with the seed of Kafka's Java client, as an unsigned number."""
    multiplier, length = 0x5BD1_E995, len(data)
    h = 0x9747_B28C ^ length
    whole = length & ~3
    for start in range(0, whole, 4):
        k = int.from_bytes(data[start : start + 4], "little") * multiplier & _MASK32
        k = (k ^ k >> 24) * multiplier & _MASK32
        h = h * multiplier & _MASK32 ^ k
    if length > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * multiplier & _MASK32
    h = (h ^ h >> 13) * multiplier & _MASK32
    return h ^ h >> 15


def _optional(event: Interaction) -> str:
    """The canonical form of the optional fields."""
    spelled = "" if event.context is None else _spell(event.context)
    return f"|{event.tenant or ''}|{event.consent}|{event.traffic or ''}|{spelled}"


def _spell(context: dict[str, Scalar]) -> str:
    return json.dumps(context, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
