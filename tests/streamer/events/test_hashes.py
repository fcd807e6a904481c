"""Hashes never change: rows on disk and every other implementation depend on them."""

import hashlib
import json

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as reference_murmur2

from schemas.records import TYPES, Interaction
from streamer.events import hashes
from streamer.events.hashes import fingerprint, generation_id, item_hash, murmur2, partition, request_hash
from tests.streamer.events.samples import event

KEY = bytes(range(16))


def slow_fingerprint(event: Interaction) -> int:
    """The definition, word for word."""
    spelled = (
        ""
        if event.context is None
        else json.dumps(event.context, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    )
    canonical = (
        f"{len(event.item_id)}:{event.item_id}|{event.event_type}|{event.timestamp}|{event.value!r}"
        f"|{event.tenant or ''}|{event.consent}|{event.traffic or ''}|{spelled}"
    )
    return xxhash.xxh3_64_intdigest(canonical.encode()) & 0xFFFF_FFFF


EVENTS = st.builds(
    Interaction,
    request_id=st.text(min_size=1),
    user_id=st.text(min_size=1),
    item_id=st.text(min_size=1),
    event_type=st.sampled_from(TYPES),
    timestamp=st.integers(0, 2**62),
    value=st.just(1.0) | st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    tenant=st.none() | st.text(min_size=1),
    consent=st.none() | st.booleans(),
    traffic=st.sampled_from([None, "human", "bot"]),
    schema_version=st.sampled_from([None, 1]),
    context=st.none() | st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()),
)


@given(EVENTS)
def test_fingerprint_is_its_definition(event: Interaction) -> None:
    """The short cuts change nothing."""
    assert fingerprint(event) == slow_fingerprint(event)


@pytest.mark.parametrize(
    "change",
    [
        {"item_id": "i-2"},
        {"event_type": "view"},
        {"timestamp": 1},
        {"value": 2.0},
        {"tenant": "shop"},
        {"consent": True},
        {"consent": False},
        {"traffic": "human"},
        {"context": {}},
        {"context": {"a": 1}},
    ],
)
def test_fingerprint_tells_payloads_apart(change: dict[str, object]) -> None:
    """Each field of the payload counts."""
    assert fingerprint(event(**change)) != fingerprint(event())


def test_fingerprint_ignores_what_a_retry_may_change() -> None:
    """The schema version and the order of the context do not count, nor do the ids hashed elsewhere."""
    assert fingerprint(event(schema_version=1, request_id="r-9")) == fingerprint(event())
    assert fingerprint(event(context={"a": 1, "b": 2})) == fingerprint(event(context={"b": 2, "a": 1}))


def test_golden_values() -> None:
    """Written once, true for ever."""
    assert fingerprint(event()) == FINGERPRINT
    assert fingerprint(event(context={"ü": 1.5}, value=2.5, consent=True)) == FINGERPRINT_FULL
    assert request_hash(None, "u-1", "r-1") == REQUEST
    assert request_hash("shop", "u-1", "r-1") == REQUEST_OF_TENANT
    assert item_hash("i-1", KEY) == ITEM
    assert generation_id("2024-11-21.1") == GENERATION


FINGERPRINT = 0xFC75_4A66
FINGERPRINT_FULL = 0xCF46_65D8
REQUEST = 0x360A_4DF4_761E_6DFE
REQUEST_OF_TENANT = 0x22BF_D038_9D97_40A6
ITEM = 0x69BA_B209_17F6_A9C9
GENERATION = 0x5DF8_F68C_917D_82AB


@given(st.text(), st.binary(min_size=16, max_size=16))
def test_item_hash_is_its_definition(item_id: str, key: bytes) -> None:
    """Keyed BLAKE2b of 8 bytes, little-endian."""
    digest = hashlib.blake2b(item_id.encode(), digest_size=8, key=key).digest()
    assert item_hash(item_id, key) == (int.from_bytes(digest, "little") or 1)


def test_zero_becomes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero marks an empty slot, so no request and no item may have it."""

    class Zero:
        def digest(self) -> bytes:
            return bytes(8)

    monkeypatch.setattr(hashes, "xxh3_64_intdigest", lambda data: 0)
    monkeypatch.setattr(hashes, "blake2b", lambda data, **options: Zero())
    assert request_hash(None, "u", "r") == 1
    assert item_hash("i", KEY) == 1


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # The values in the tests of Kafka's own Java client, as unsigned numbers.
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_of_kafka(data: bytes, expected: int) -> None:
    """The hash is that of the Java client."""
    assert murmur2(data) == expected & 0xFFFF_FFFF


@given(st.binary(max_size=300), st.integers(1, 100))
def test_partition_is_that_of_a_client(key: bytes, partitions: int) -> None:
    """Another client in Python agrees on every key."""
    assert partition(key, partitions) == (reference_murmur2(key) & 0x7FFF_FFFF) % partitions
