"""Record batches by hand, read by another client's parser and by aiokafka's."""

from __future__ import annotations

import pytest
from aiokafka.record.default_records import DefaultRecordBatch as Aiokafkas
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatch as Kafkas

from streamer.steps.effects import Outgoing
from streamer.steps.wire import HEADER, encode_batch, encode_record

RECORDS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.binary(max_size=300)),
        st.one_of(st.none(), st.binary(max_size=20_000)),
        st.none(),
        st.lists(st.tuples(st.text(max_size=100), st.binary(max_size=200)), max_size=4),
    ),
    min_size=1,
    max_size=40,
)


@pytest.mark.parametrize("parser", [Kafkas, Aiokafkas])
@given(records=RECORDS, cut=st.integers(0, 40))
def test_two_parsers_read_what_was_written(parser: type, records: list[Outgoing], cut: int) -> None:
    """Some written before, some appended."""
    before, after = records[:cut], records[cut:]
    data = bytes(HEADER) + b"".join(encode_record(number, record) for number, record in enumerate(before))
    pieces = encode_batch(memoryview(data), len(before), after, now=1_800_000_000_123, producer=(2**40, 7), sequence=9)
    batch = parser(b"".join(pieces))
    assert batch.validate_crc()
    found = [(one.key, one.value, one.timestamp, list(one.headers)) for one in batch]
    assert found == [(key, value, 1_800_000_000_123, headers) for key, value, _, headers in records]
    assert batch.is_transactional


def test_a_record_with_a_time_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="timestamp"):
        encode_record(0, (b"k", b"v", 5, []))
