"""Whatever bytes come, reading ends in one of three values; and the fast path agrees with the slow one."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from schemas.records import TYPES, Interaction
from streamer.events.decode import decode
from streamer.events.explain import explain
from streamer.events.verdicts import Filtered, Rejected
from tests.streamer.events.samples import EVENT, FakeRecord, reader, text

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([*TYPES, "", "x" * 257, 2**63, -(2**63) - 1, 10**400, "2024-11-21T03:44:00Z", "human", 1.0]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
NAMES = st.sampled_from(
    [
        *EVENT,
        "value",
        "tenant",
        "consent",
        "traffic",
        "schema_version",
        "context",
        "specversion",
        "data",
        "id",
    ]
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["ce_specversion", "ce_id", "ce_time", "content-type", "x"]),
        st.none()
        | st.binary(max_size=10)
        | st.sampled_from([b"1.0", b"2024-11-21T03:44:00Z", b"application/cloudevents+json; charset=UTF-8"]),
    ),
    max_size=4,
)


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A good event with some fields changed, and then perhaps some bytes."""
    fields: dict[str, Any] = EVENT | draw(st.dictionaries(NAMES | st.text(max_size=5), JSON, max_size=3))
    for name in draw(st.sets(NAMES, max_size=1)):
        fields.pop(name, None)
    data = bytearray(json.dumps(fields, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(data)


@given(st.binary(max_size=300) | spoiled(), HEADERS)
@example(b"[" * 100_000, [])
@example(b'{"a":' * 50_000 + b"1" + b"}" * 50_000, [])
@example(b'{"value":' + b"9" * 60_000 + b"}", [])
@example(b"\\u" * 30_000, [])
@example(b'{"\\', [])
def test_read_never_raises(value: bytes, headers: list[tuple[str, bytes | None]]) -> None:
    """Any bytes give an event or a verdict whose errors can be written into headers."""
    verdict = reader(max_bytes=1_000_000).read(FakeRecord(value, headers=headers))
    assert isinstance(verdict, Interaction | Rejected | Filtered)
    if isinstance(verdict, Rejected):
        assert verdict.errors
        for error in verdict.errors:
            assert len(str(error).encode()) < 1500


@given(spoiled() | st.builds(lambda fields: text(**fields), st.dictionaries(NAMES, SCALARS, max_size=4)))
def test_what_the_fast_path_takes_the_slow_path_takes_alike(value: bytes) -> None:
    """The fast path is only a short cut: where it gives an event, the slow path gives the same one."""
    fast = decode(value)
    if fast is not None:
        slow = explain(value, ())
        assert slow == fast
        assert repr(slow) == repr(fast)
