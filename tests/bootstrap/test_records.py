"""The records of a new generation: exact numbers, the schema's fields, both encodings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest

from bootstrap.records import Writer
from schemas.layouts import Suppression
from schemas.records import FactorRecord
from streamer.engine.replica import ItemReplica
from streamer.steps.items import Items

VECTOR = np.array([0.1, -1 / 3, 3e-39, 1e30], np.float32)


def test_json_keeps_every_bit() -> None:
    """What a consumer parses is the float32 that was solved, subnormal numbers included."""
    made = Writer("test", "m1", 7, "json").item("é", VECTOR, 5)
    record = msgspec.json.decode(made.value, type=FactorRecord)
    assert np.array(record.vector, np.float32).tobytes() == VECTOR.tobytes()
    assert made.key == "é".encode()
    assert (record.id, record.kind, record.version, record.events, record.event_time) == ("é", "item", 1, 0, 5)
    assert (record.dimension, record.model_version, record.training_data_end) == (4, "m1", 7)
    assert record.suppressed is None
    headers = dict(made.headers)
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_type"] == b"factors.item.refreshed.v1"
    assert headers["content-type"] == b"application/json"


def test_raw_vectors_carry_the_rest_in_a_header() -> None:
    """With f32le the value is the bytes of the vector."""
    made = Writer("test", "m1", 7, "f32le").item("i", VECTOR, 5)
    assert np.frombuffer(made.value, "<f4").tobytes() == VECTOR.tobytes()
    about = orjson.loads(dict(made.headers)["factors.record"])
    assert about["id"] == "i"
    assert "vector" not in about


@pytest.mark.parametrize("encoding", ["json", "f32le"])
def test_an_items_weight_reaches_a_worker(encoding: Any) -> None:
    """To the last bit, by the replica that follows the topic; without one it is 1."""
    writer, view = Writer("test", "m1", 7, encoding), Items(dimension=4, ridge=1.0, item_key=bytes(16), partitions=1)
    vector, weight = np.array([1, 2, 3, 4], np.float32), 0.1 + 0.2
    made = [writer.item("a", vector, 5, weight=weight), writer.item("b", vector, 5)]
    records = [
        SimpleNamespace(key=one.key, value=one.value, headers=one.headers, offset=at) for at, one in enumerate(made)
    ]
    ItemReplica(view, "m1").factors(0, records, 2)
    assert view.space.weights.tolist() == [weight, 1.0]
    view.settle()
    assert np.allclose(view.space.gramian, (1 + weight) * np.outer(vector, vector))


@pytest.mark.parametrize("encoding", ["json", "f32le"])
@pytest.mark.parametrize(("session", "basis"), [(None, "history"), (None, "segment"), (VECTOR[::-1], "blend")])
def test_a_user_says_what_the_vector_rests_on(encoding: Any, session: Any, basis: str) -> None:
    """Suppressed items are those that no later positive event has lifted."""
    suppressed = (Suppression("a", 1, 10, 0, 5), Suppression("b", 2, 10, 0, 11), Suppression("c", 3, 10, 10, 10))
    shares = {"prior": "segment", "history_weight": 0.6, "session_weight": 0.3} if basis == "blend" else {}
    about: dict[str, Any] = {"events": 3, "event_time": 9, "epochs": [4, 0], "suppressed": suppressed}
    made = Writer("test", "m1", 7, encoding).user(
        "u", VECTOR, **about, made_of={"basis": basis} | shares, session=session
    )
    text = made.value if encoding == "json" else dict(made.headers)["factors.record"]
    record = msgspec.convert({"vector": []} | orjson.loads(text), FactorRecord)
    assert (record.session is None) == (session is None)
    if session is not None:
        assert np.array(record.session, np.float32).tobytes() == session.tobytes()
    assert record.suppressed == ["a", "c"]
    assert record.basis == basis
    named = {name: getattr(record, name) for name in ("prior", "history_weight", "session_weight")}
    assert {name: value for name, value in named.items() if value is not None} == shares
    assert (record.kind, record.events, record.items_epoch) == ("user", 3, [4, 0])
