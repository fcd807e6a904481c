"""The item replica: item-factors and the catalogue, followed into the `Items` that the steps read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import structlog

from schemas.records import CatalogueEntry, FactorRecord
from streamer.steps.items import MAX_DRIFT, Items

log = structlog.get_logger(__name__)

_FACTOR = msgspec.json.Decoder(FactorRecord)
_RAW_REST = "factors.record"


class _RawRest(msgspec.Struct):
    """What an f32le record's header says beside the vector."""

    id: str
    model_version: str
    version: int
    dimension: int
    basis: str | None = None
    popularity: float | None = None
    weight: float | None = None
    bias: float | None = None


_REST = msgspec.json.Decoder(_RawRest)
_ENTRY = msgspec.json.Decoder(CatalogueEntry)


class ItemReplica:
    """Takes records of item-factors into ``items``; records of another dimension are refused.

    Of another generation's records only the versions count: a vector that takes their place must have a newer one.
    """

    def __init__(self, items: Items, model_version: str) -> None:
        self._items, self._model_version = items, model_version
        self.refused = 0

    def factors(self, partition: int, records: Sequence[Any], position: int) -> None:
        """Records of one partition of item-factors, in log order."""
        self.take(partition, records)
        self._items.epochs[partition] = position

    def base(self, partition: int, records: Sequence[Any], position: int) -> None:
        """Records of the generation's own topic, which holds it as it was trained."""
        self.take(partition, records)

    def take(self, partition: int, records: Sequence[Any]) -> None:
        """Put the vectors of this generation."""
        ids: list[str] = []
        versions: list[int] = []
        vectors: list[np.typing.NDArray[np.float32]] = []
        weights: list[float] = []
        for record in records:
            if record.value is None:  # an erased item keeps its last vector until the next generation
                self._items.others.pop((record.key or b"").decode("utf-8", "replace"), None)
                continue
            try:
                about, vector = self._decode(record)
                if about.model_version != self._model_version:
                    self._items.others[about.id] = max(self._items.others.get(about.id, 0), about.version)
                    continue
                self._check(vector, about.weight)
            except (msgspec.DecodeError, ValueError) as problem:
                self.refused += 1
                log.error("item_factor_refused", partition=partition, offset=record.offset, problem=str(problem))
                continue
            ids.append(about.id)
            versions.append(about.version)
            vectors.append(vector)
            weights.append(1.0 if about.weight is None else about.weight)
            if about.basis is not None:
                self._items.folded.add(about.id)
            if about.popularity is not None:
                self._items.popularity[about.id] = about.popularity
        if ids:
            self._items.put(ids, versions, np.stack(vectors), weights)
            drift = self._items.check_gramian()
            if drift is not None and not drift <= MAX_DRIFT:
                log.warning("gramian_recounted", drift=drift, bound=MAX_DRIFT, items=self._items.space.size)

    @staticmethod
    def _decode(record: Any) -> tuple[_RawRest | FactorRecord, np.typing.NDArray[np.float32]]:
        rest = next((value for name, value in record.headers if name == _RAW_REST), None)
        if rest is not None:
            about: _RawRest | FactorRecord = _REST.decode(rest)
            vector = np.frombuffer(record.value, "<f4")
        else:
            about = whole = _FACTOR.decode(record.value)
            with np.errstate(over="ignore"):  # beyond float32: the check finds it
                vector = np.array(whole.vector, np.float32)
        if about.bias is not None:
            # The replica holds it behind the vector.
            with np.errstate(over="ignore"):
                vector = np.append(vector, np.float32(about.bias))
        return about, vector

    def _check(self, vector: np.typing.NDArray[np.float32], weight: float | None) -> None:
        dimension = self._items.space.dimension
        if len(vector) != dimension:
            raise ValueError(f"it has {len(vector)} numbers, not {dimension}")
        if not np.isfinite(vector).all():
            raise ValueError("it has a number that is not finite")
        if weight is not None and not 0 < weight < np.inf:
            raise ValueError(f"its weight is {weight}, not above 0")

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
