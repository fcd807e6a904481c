"""The schema files and the typed records say the same: same fields, types, bounds and defaults."""

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from jsonschema import Draft202012Validator

from schemas.outcomes import DEAD_LETTER_REASONS, OUTCOME_OF_REASON, Outcome, Reason
from schemas.records import POSITIVES, TYPES, EventType
from tests.schemas.canonical import canonical
from tests.schemas.files import FOLDER, GOLDEN, HEADERS, RECORDS, golden, load

SCHEMAS = sorted([*RECORDS, HEADERS])


def without_text_timestamps(schema: dict[str, Any]) -> dict[str, Any]:
    """The wire takes RFC 3339 text, the record holds the normal form: the one wanted difference."""
    millis, text = schema["properties"]["timestamp"].pop("anyOf")
    assert text["type"] == "string"
    schema["properties"]["timestamp"] |= millis
    return schema


def with_free_weights(schema: dict[str, Any]) -> dict[str, Any]:
    """The file names the weights one by one; the record leaves that to `Policy.__post_init__`."""
    weights = schema["$defs"]["policy"]["properties"]["weights"]
    one = {"$ref": "#/$defs/weight"}
    assert weights.pop("properties") == dict.fromkeys(POSITIVES, one)
    assert weights.pop("required") == list(POSITIVES)
    assert weights["additionalProperties"] is False
    weights["additionalProperties"] = one
    return schema


def without_conditions(schema: dict[str, Any]) -> dict[str, Any]:
    """What explicit feedback asks for and forbids is left to `__post_init__`; `test_agreement` holds them together."""
    for where in (schema, schema["$defs"]["policy"]):
        assert "explicit" in str(where.pop("if"))
        where.pop("then")
        where.pop("else", None)
    return with_free_weights(schema)


WANTED = {"interaction.v1.json": without_text_timestamps, "manifest.v1.json": without_conditions}


@pytest.mark.parametrize("name", RECORDS)
def test_file_and_record_have_the_same_structure(name: str) -> None:
    """Required fields, names, types, bounds and defaults agree, all the way down."""
    written = load(name)
    if name in WANTED:
        written = WANTED[name](written)
    derived = msgspec.json.schema(RECORDS[name])
    assert canonical(written) == canonical(derived)


@pytest.mark.parametrize("name", RECORDS)
def test_fields_stand_in_the_same_order(name: str) -> None:
    """A reader of the one finds their way in the other."""
    assert list(load(name)["properties"]) == list(RECORDS[name].__struct_fields__)


def test_no_schema_file_is_without_a_test() -> None:
    """A new file has to be entered here."""
    assert sorted(path.name for path in FOLDER.glob("*.json")) == SCHEMAS


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_file_is_a_good_schema(name: str) -> None:
    """It is draft 2020-12, says what it is, and its own examples hold."""
    schema = load(name)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:streaming-factors:{name.replace('.v1.json', ':v1')}"
    assert schema["description"]
    assert schema["examples"]
    for example in schema["examples"]:
        Draft202012Validator(schema).validate(example)


@pytest.mark.parametrize("name", SCHEMAS)
def test_golden_samples_hold(name: str) -> None:
    """What was once valid stays valid, and decodes and encodes to the same JSON."""
    samples = golden(name)
    assert samples
    for path in samples:
        text = path.read_text(encoding="utf-8")
        Draft202012Validator(load(name)).validate(json.loads(text))
        if name in RECORDS:
            record = msgspec.json.decode(text, type=RECORDS[name])
            assert json.loads(msgspec.json.encode(record)) == json.loads(text)


def test_no_golden_sample_is_forgotten() -> None:
    """Every file in the folder belongs to a schema."""
    claimed: list[Path] = [path for name in SCHEMAS for path in golden(name)]
    assert sorted(claimed) == sorted(GOLDEN.iterdir())


def test_lists_of_event_types_agree() -> None:
    """Annotation, constants and schema file name the same types in the same order."""
    assert get_args(EventType) == TYPES
    assert load("interaction.v1.json")["properties"]["event_type"]["enum"] == list(TYPES)


def test_dead_letter_reasons_agree() -> None:
    """The file lists what goes to dead letters, in the order of the decisions."""
    reasons = [reason.value for reason in Reason if reason in DEAD_LETTER_REASONS]
    assert load(HEADERS)["properties"]["factors.reason"]["enum"] == [*reasons, Outcome.CONFLICT.value]
    assert {OUTCOME_OF_REASON[reason] for reason in DEAD_LETTER_REASONS} == {Outcome.DEAD_LETTER}
    assert set(OUTCOME_OF_REASON) == set(Reason)


def test_outcomes_and_reasons_are_the_contracts() -> None:
    """One spelling, one order."""
    assert " ".join(Outcome) == "applied suppressed duplicate conflict late filtered dead_letter"
    assert " ".join(Reason) == (
        "too_large not_utf8 not_json unknown_event_type schema bad_number key_mismatch wrong_partition future"
        " no_consent bot internal wrong_tenant invalid_item set_aside capped outside_window erased"
    )
