"""The item replica: item-factors and the catalogue, followed into the `Items` that the steps read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import structlog

from schemas.records import CatalogueEntry, FactorRecord
from streamer.steps.items import Items

log = structlog.get_logger(__name__)

_FACTOR = msgspec.json.Decoder(FactorRecord)
_RAW_REST = "factors.record"


class _RawRest(msgspec.Struct):
    """What an f32le record's header says beside the vector."""

    id: str
    model_version: str
    version: int
    dimension: int
    bias: float | None = None


_REST = msgspec.json.Decoder(_RawRest)
_ENTRY = msgspec.json.Decoder(CatalogueEntry)


class ItemReplica:
    """Takes records of item-factors into ``items``; records of another generation or dimension are refused."""

    def __init__(self, items: Items, model_version: str) -> None:
        self._items, self._model_version = items, model_version
        self.refused = 0

    def factors(self, partition: int, records: Sequence[Any], position: int) -> None:
        """Records of one partition of item-factors, in log order."""
        ids: list[str] = []
        versions: list[int] = []
        vectors: list[np.typing.NDArray[np.float32]] = []
        for record in records:
            if record.value is None:  # an erased item keeps its last vector until the next generation
                continue
            try:
                item_id, version, vector = self._decode(record)
            except (msgspec.DecodeError, ValueError) as problem:
                self.refused += 1
                log.error("item_factor_refused", partition=partition, offset=record.offset, problem=str(problem))
                continue
            ids.append(item_id)
            versions.append(version)
            vectors.append(vector)
        if ids:
            self._items.put(ids, versions, np.stack(vectors))
        self._items.epochs[partition] = position

    def _decode(self, record: Any) -> tuple[str, int, np.typing.NDArray[np.float32]]:
        rest = next((value for name, value in record.headers if name == _RAW_REST), None)
        if rest is not None:
            about: _RawRest | FactorRecord = _REST.decode(rest)
            vector = np.frombuffer(record.value, "<f4")
        else:
            about = whole = _FACTOR.decode(record.value)
            vector = np.array(whole.vector, np.float32)
        if about.bias is not None:
            # The replica holds it behind the vector.
            vector = np.append(vector, np.float32(about.bias))
        dimension = self._items.space.dimension
        if about.model_version != self._model_version:
            raise ValueError(f"it is of model {about.model_version}, not {self._model_version}")
        if len(vector) != dimension:
            raise ValueError(f"it has {len(vector)} numbers, not {dimension}")
        if not np.isfinite(vector).all():
            raise ValueError("it has a number that is not finite")
        return about.id, about.version, vector

    def catalogue(self, partition: int, records: Sequence[Any], position: int) -> None:
        """Records of one partition of the catalogue: withdrawn and banned items become invalid."""
        for record in records:
            item_id = (record.key or b"").decode("utf-8", "replace")
            if record.value is None:
                self._items.invalid.discard(item_id)
                self._items.listed.discard(item_id)
                continue
            try:
                entry = _ENTRY.decode(record.value)
            except (msgspec.DecodeError, ValueError) as problem:
                log.error("catalogue_entry_refused", partition=partition, offset=record.offset, problem=str(problem))
                continue
            self._items.listed.add(item_id)
            if entry.state == "active":
                self._items.invalid.discard(item_id)
            else:
                self._items.invalid.add(item_id)
