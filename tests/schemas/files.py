"""The schema files, and which typed record each describes."""

import json
from pathlib import Path
from typing import Any

import schemas
from schemas.records import CatalogueEntry, Control, FactorRecord, Interaction, Manifest, Retrain

FOLDER = Path(schemas.__file__).parent
GOLDEN = Path(__file__).parent / "golden"

RECORDS: dict[str, type[Any]] = {
    "interaction.v1.json": Interaction,
    "factor.v1.json": FactorRecord,
    "item.v1.json": CatalogueEntry,
    "manifest.v1.json": Manifest,
    "control.v1.json": Control,
    "retrain.v1.json": Retrain,
}
HEADERS = "dead-letter.v1.json"


def load(name: str) -> dict[str, Any]:
    """A schema file."""
    schema = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    assert isinstance(schema, dict)
    return schema


def golden(name: str) -> list[Path]:
    """The golden samples of a schema file."""
    return sorted(GOLDEN.glob(f"{name.removesuffix('.json')}.*.json"))
