"""A schema file and its typed record accept and reject the same values, drawn at random around good ones."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schemas.records import Interaction
from streamer.events.explain import explain
from tests.schemas.files import RECORDS, golden, load

Place = tuple[str | int, ...]

# Around every bound in the files. No integer is spelled as a float: JSON Schema takes 1.0 for an integer,
# msgspec does not (the slow path of reading does: see the last test).
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1, 0.5, -0.5, 1e300),
    *(3_155_760_000_000, 3_155_760_000_001, "", "x", "click", "human", "active", "c-1", "log", "user", "yes"),
    *("x" * 64, "x" * 65, "x" * 128, "x" * 129, "ü" * 256, "x" * 257, "x" * 249, "x" * 250),
    *("0" * 32, "0" * 64, "A" * 64, [], ["a"], [1], [None], [0.5, "a"], {}, {"a": 1}, {"a": []}, {"a": None}),
]
NAMES = ["", "a", "value", "weights", "view", "active", "0"]


@st.composite
def variation(draw: st.DrawFn, name: str) -> Any:
    """A good sample with up to three changes anywhere in it."""
    sample = json.loads(draw(st.sampled_from(golden(name))).read_text(encoding="utf-8"))
    holder = {"root": sample}
    for _ in range(draw(st.integers(0, 3))):
        *above, last = draw(st.sampled_from([place for place in places(holder) if place]))
        parent: Any = holder
        for step in above:
            parent = parent[step]
        change = draw(st.sampled_from(["replace", "replace", "delete", "add"]))
        if change == "replace":
            parent[last] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif change == "delete" and above:
            del parent[last]
        elif change == "add" and isinstance(parent[last], dict):
            parent[last][draw(st.sampled_from(NAMES))] = copy.deepcopy(draw(st.sampled_from(VALUES)))
    return holder["root"]


def places(value: object, here: Place = ()) -> Iterator[Place]:
    """The path of everything inside a JSON value."""
    yield here
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*here, name))
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*here, index))


@pytest.mark.parametrize("name", RECORDS)
@given(data=st.data())
def test_file_and_record_accept_the_same(name: str, data: st.DataObject) -> None:
    """What the file allows decodes, and what it forbids does not."""
    value = data.draw(variation(name))
    problem = ""
    try:
        msgspec.json.decode(json.dumps(value), type=RECORDS[name])
    except msgspec.ValidationError as error:
        problem = str(error)
    # JSON Schema cannot say that an array is as long as another field states.
    assume("where dimension is" not in problem and "where a triangle has" not in problem)
    assert Draft202012Validator(load(name)).is_valid(value) == (not problem), problem


@given(data=st.data())
def test_reading_accepts_what_the_file_allows(data: st.DataObject) -> None:
    """Reading is as strict as the published schema, also on RFC 3339 text and integers spelled as floats."""
    value = data.draw(variation("interaction.v1.json"))
    spelling = st.sampled_from([1.0, 1_732_160_640_000.0, 0.5, "2024-11-21T03:44:00Z", "2024-11-21", "noon"])
    if isinstance(value, dict):
        value |= data.draw(st.dictionaries(st.sampled_from(["timestamp", "schema_version"]), spelling))
    allowed = Draft202012Validator(load("interaction.v1.json")).is_valid(value)
    assert isinstance(explain(json.dumps(value).encode(), ()), Interaction) == allowed
