"""Vectors of items that nobody has touched yet, from what the catalogue says of them: ridge from attributes to vectors.

With a row a of attributes for each trained item, its vector v, both centred, and D its weight over the mean one::

    W = (A'DA + ρI)⁻¹ A'DV        v of a new item = mean(V) + (a - mean(A)) W, the means weighted by D too

The weight is the root of the popularity: a vector that few events made is hardly known. Popularity itself lets new
items into more lists, and takes more places from known ones than that is worth (`tests/bench/bench_content.py`).

Texts, lists of texts and booleans become one column a value (one-hot); beyond `_WIDTH` different ones, values share
columns by their hash (Weinberger et al. 2009, arXiv:0902.2206). Numbers are standardised; one that is missing counts
as the mean. ρ is given or, at 0, the one with the smallest squared error in five-fold cross-validation.

A projected vector stands for its item until there are events: the next training, or the stream's own updates, take
over from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from streamer.events.hashes import item_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from schemas.records import CatalogueEntry

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U64 = npt.NDArray[np.uint64]
Attributes = dict[str, Any]

_WIDTH = 2_048
_FOLDS = 5
_RIDGES = tuple(float(ridge) for ridge in np.logspace(-1, 5, 13))
_TRAINED = 10
"""With fewer trained items that have attributes there is nothing to learn from."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The active items that have attributes: ids (sorted), their hashes (n,) and attributes.

    active: all that are, with attributes or without; withdrawn: the others.
    """

    ids: list[str]
    hashes: U64
    attributes: list[Attributes]
    active: frozenset[str]
    withdrawn: frozenset[str]


@dataclass(frozen=True, slots=True)
class Projection:
    """Items without events: ids (n,), hashes (n,), vectors (n, k) float32; ridge: the ρ that was taken."""

    ids: list[str]
    hashes: U64
    vectors: F32
    ridge: float


def catalogue_of(entries: Mapping[str, CatalogueEntry], item_key: bytes) -> Catalogue:
    """The catalogue as the projection takes it; of items whose hashes collide the first by id is kept."""
    active = {item_id: entry for item_id, entry in entries.items() if entry.state == "active"}
    hashes: dict[int, str] = {}
    for item_id in sorted(active):
        if active[item_id].attributes:
            hashes.setdefault(item_hash(item_id, item_key), item_id)
    return Catalogue(
        ids=list(hashes.values()),
        hashes=np.fromiter(hashes, np.uint64, len(hashes)),
        attributes=[active[item_id].attributes or {} for item_id in hashes.values()],
        active=frozenset(active),
        withdrawn=frozenset(entries) - frozenset(active),
    )


def project(
    catalogue: Catalogue, item_ids: Sequence[str], hashes: U64, vectors: F32, weight: F64, ridge: float
) -> Projection:
    """Vectors for the items of the catalogue that are not among the trained ones; ``ridge``: ρ, 0 to choose it.

    item_ids, hashes (m,), vectors (m, k), weight (m,) > 0: the trained items.
    """
    number = {item_id: row for row, item_id in enumerate(item_ids)}
    taken = set(hashes.tolist())
    known = [(place, number[item_id]) for place, item_id in enumerate(catalogue.ids) if item_id in number]
    new = [place for place, item_id in enumerate(catalogue.ids) if item_id not in number]
    new = [place for place in new if int(catalogue.hashes[place]) not in taken]
    if len(known) < _TRAINED or not new:
        return Projection([], np.zeros(0, np.uint64), np.zeros((0, vectors.shape[1]), np.float32), ridge)
    places, rows = (np.array(side, np.intp) for side in zip(*known, strict=True))
    columns = columns_of(catalogue.attributes, places)
    a, v, d = columns[places], vectors[rows].astype(np.float64), weight[rows] / weight[rows].mean()
    ridge = ridge or _best_ridge(a, v, d)
    middle, mean = _mean(a, d), _mean(v, d)
    projected = mean + (columns[new] - middle) @ _fit(a - middle, v - mean, d, [ridge])[0]
    ids = [catalogue.ids[place] for place in new]
    return Projection(ids, catalogue.hashes[new], projected.astype(np.float32), ridge)


def columns_of(attributes: Sequence[Attributes], trained: npt.NDArray[np.intp]) -> F64:
    """The attributes (n,) as columns (n, d); only values that some trained item has get a column."""
    tokens = [sorted(_tokens(one)) for one in attributes]
    numbers = sorted({name for at in trained.tolist() for name, _ in _numbers(attributes[at])})
    values = sorted({token for at in trained.tolist() for token in tokens[at]})
    column = {token: at for at, token in enumerate(values)}
    if len(values) > _WIDTH:
        column = {token: xxh3_64_intdigest(token.encode()) % _WIDTH for token in values}
    out = np.zeros((len(attributes), min(len(values), _WIDTH) + len(numbers)))
    for row, mine in enumerate(tokens):
        out[row, [column[token] for token in mine if token in column]] = 1.0
    for at, name in enumerate(numbers, out.shape[1] - len(numbers)):
        out[:, at] = _standardised([dict(_numbers(one)).get(name) for one in attributes], trained)
    return out


def _tokens(attributes: Attributes) -> Iterable[str]:
    for name, value in attributes.items():
        if isinstance(value, list):
            yield from (f"{name}={one}" for one in value)
        elif isinstance(value, str | bool):
            yield f"{name}={value}"


def _numbers(attributes: Attributes) -> Iterable[tuple[str, float]]:
    for name, value in attributes.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
            yield name, float(value)


def _standardised(values: list[float | None], trained: npt.NDArray[np.intp]) -> F64:
    """(n,) with mean 0 and deviation 1 over the trained items; 0 where there is none."""
    column = np.array([np.nan if value is None else value for value in values])
    known = column[trained][np.isfinite(column[trained])]
    deviation = float(known.std()) or 1.0
    return np.asarray(np.nan_to_num((column - known.mean()) / deviation), np.float64)


def _best_ridge(a: F64, v: F64, d: F64) -> float:
    """The ridge of `_RIDGES` with the smallest weighted squared error on the items left out, fold by fold."""
    fold = np.random.default_rng(0).permutation(len(a)) % _FOLDS
    errors = np.zeros(len(_RIDGES))
    for out in range(_FOLDS):
        left, kept = fold == out, fold != out
        middle, mean = _mean(a[kept], d[kept]), _mean(v[kept], d[kept])
        for at, weights in enumerate(_fit(a[kept] - middle, v[kept] - mean, d[kept], _RIDGES)):
            wrong = v[left] - mean - (a[left] - middle) @ weights
            errors[at] += float(np.sum(d[left, None] * wrong**2))
    return _RIDGES[int(np.argmin(errors))]


def _mean(values: F64, d: F64) -> F64:
    return np.asarray(d @ values / d.sum(), np.float64)


def _fit(a: F64, v: F64, d: F64, ridges: Sequence[float]) -> list[F64]:
    """W (d, k) for each ridge: one eigendecomposition serves them all. a: (n, d), v: (n, k), centred; d: (n,)."""
    weighted = a * d[:, None]
    values, axes = np.linalg.eigh(weighted.T @ a)
    turned = axes.T @ (weighted.T @ v)
    return [axes @ (turned / (np.maximum(values, 0) + ridge)[:, None]) for ridge in ridges]
