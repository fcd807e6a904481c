"""The folder that a generation is kept in: manifest, vectors, ids, Gramians and every user's history, as plain files.

===========================  =================================================================================
``manifest.json``            the manifest, with the SHA-256 of every other file
``items.npy users.npy``      (m, k) and (n, k) float32; the last ``counts.projected_items`` items had no events
``item_ids user_ids``        one JSON string a line, in the order of the rows
``gramian_*.npy``            V'V of the items and of the users, float64
``average_user.npy``         (k,) float32
``*_bias.npy``               (m,) and (n,) float32, of items and users; explicit feedback only
``popularity.npy``           (m,) float64, the strength of all users at the training cut
``weights.npy``              (m,) float64, of unobserved pairs, where the policy has an ``unobserved_power``
``item_event_time.npy``      (m,) int64, ms
``user_*.npy``               the counters of each user's row
``history_*.npy``            `start` (n + 1,), and end to end the item hash, time and strength of each entry
``key_*.npy``                likewise the idempotency keys
``user_segment*.npy``        each user's segment and when it was named, where the policy has a ``segment_key``
``suppressed``               one JSON array a user who suppressed something: the user's number, then the entries
===========================  =================================================================================

Everything little-endian, opened without pickle, sizes and sums checked before a byte is believed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bootstrap.model import HISTORY_DTYPES, KEY_DTYPES, SEGMENT_DTYPES, USER_DTYPES, Model, Users
from bootstrap.storage import MANIFEST, Folder, join, save_array, sums, write_folder
from schemas.layouts import Suppression
from schemas.records import Artifact, Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

_MANIFEST_BYTES = 16 << 20
_ID_BYTES = 256 * 12 + 3  # the longest id with every character escaped, quotes and newline
_SUPPRESSED_BYTES = 1 << 32
_SUPPRESSED = msgspec.json.Decoder(tuple[int, list[Suppression]])


def files_of(model: Model) -> dict[str, bytes]:
    """Every file but the manifest, by name."""
    users = model.users
    biased = model.mean is not None
    k = model.items.shape[1] - biased
    biases = {"item_bias": model.items[:, -1], "user_bias": model.user_vectors[:, -1]} if biased else {}
    arrays = {
        "items": model.items[:, :k],
        "users": model.user_vectors[:, :k],
        **biases,
        "gramian_items": model.gramian_items,
        "gramian_users": model.gramian_users,
        "average_user": model.average_user[:k],
        "popularity": model.popularity,
        "item_event_time": model.item_event_time,
        **({} if model.weights is None else {"weights": model.weights}),
        "history_start": users.history_start,
        "key_start": users.key_start,
        **{f"user_{name}": getattr(users, name) for name in USER_DTYPES},
        **{f"user_{name}": getattr(users, name) for name in SEGMENT_DTYPES if users.segment is not None},
        **{f"history_{name}": getattr(users, name) for name in HISTORY_DTYPES},
        **{_key_file(name): getattr(users, name) for name in KEY_DTYPES},
    }
    files = {f"{name}.npy": save_array(array) for name, array in arrays.items()}
    files["item_ids"], files["user_ids"] = _lines(model.item_ids), _lines(users.ids)
    files["suppressed"] = _lines([[user, list(entries)] for user, entries in sorted(users.suppressed.items())])
    return files


def _key_file(column: str) -> str:
    return f"key_{column.removeprefix('key_')}"


def _lines(rows: list[Any]) -> bytes:
    encode = msgspec.json.Encoder().encode
    return b"".join(encode(row) + b"\n" for row in rows)


def write(base: str, manifest: Manifest, model: Model) -> Manifest:
    """Write the folder ``base``/model_version; returns the manifest with the place and the sums.

    Raises:
        DataError: the folder is there already, or cannot be written.
    """
    url, files = join(base, manifest.model_version), files_of(model)
    whole = msgspec.structs.replace(manifest, artifact=Artifact(url, sums(files)))
    write_folder(url, files, msgspec.json.format(msgspec.json.encode(whole)))
    return whole


def open_manifest(url: str) -> Manifest:
    """The manifest of a folder.

    Raises:
        DataError: missing, too large, or not a manifest.
    """
    folder = Folder(url)
    data = folder.read(MANIFEST, at_most=_MANIFEST_BYTES)
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, ValueError) as problem:
        raise folder.damaged(MANIFEST, f"is not a manifest ({problem})") from None


def open_artifact(url: str) -> tuple[Manifest, Model]:
    """The manifest and the model of a folder, all of it checked.

    Raises:
        DataError: a file is missing, or of another size, sum or kind than the manifest says.
    """
    manifest = open_manifest(url)
    return manifest, _Reading(Folder(url), manifest).model()


def open_items(url: str) -> tuple[Manifest, list[str], Any, Any]:
    """Of a folder the manifest, the item ids, their vectors (m, k) and weights (m,), None for 1, and nothing else.

    Raises:
        DataError: as `open_artifact`.
    """
    manifest = open_manifest(url)
    reading = _Reading(Folder(url), manifest)
    return manifest, *reading.items(), reading.weights()


def open_ids(url: str) -> tuple[list[str], list[str]]:
    """The item ids and the user ids of a folder, and nothing else of it.

    Raises:
        DataError: as `open_artifact`.
    """
    return _Reading(Folder(url), open_manifest(url)).ids()


class _Reading:
    """One folder, read file by file against its manifest."""

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest
        self._sums = manifest.artifact.files
        self._count: Mapping[str, int] = manifest.counts

    def items(self) -> tuple[list[str], Any]:
        count = self._of("items")
        return self._ids("item_ids", count), self._array("items", "<f4", (count, self._manifest.dimension))

    def weights(self) -> Any:
        return self._array("weights", "<f8", (self._of("items"),)) if self._manifest.policy.unobserved_power else None

    def ids(self) -> tuple[list[str], list[str]]:
        return self._ids("item_ids", self._of("items")), self._ids("user_ids", self._of("users"))

    def model(self) -> Model:
        n, m, k = self._of("users"), self._of("items"), self._manifest.dimension
        item_ids, _ = self.items()
        average = self._array("average_user", "<f4", (k,))
        if not np.array_equal(average, np.array(self._manifest.average_user, np.float32)):
            raise self._folder.damaged(MANIFEST, "gives another average user than average_user.npy")
        return Model(
            item_ids=item_ids,
            items=self._rows("items", "item_bias", (m, k)),
            popularity=self._array("popularity", "<f8", (m,)),
            item_event_time=self._array("item_event_time", "<i8", (m,)),
            users=self._users(n),
            user_vectors=self._rows("users", "user_bias", (n, k)),
            gramian_items=self._array("gramian_items", "<f8", (k, k)),
            gramian_users=self._array("gramian_users", "<f8", (k, k)),
            average_user=np.array(self._manifest.average_row, np.float32),
            mean=self._manifest.global_mean,
            projected=self._count.get("projected_items", 0),
            segments={name: np.array(row, np.float32) for name, row in self._manifest.segments.items()},
            popularity_user=self._popularity_user(),
            weights=self.weights(),
        )

    def _rows(self, vectors: str, bias: str, shape: tuple[int, int]) -> Any:
        """Vectors, and behind each its bias where the generation has them."""
        rows = self._array(vectors, "<f4", shape)
        if self._manifest.width == shape[1]:
            return rows
        return np.concatenate([rows, self._array(bias, "<f4", shape[:1])[:, None]], axis=1)

    def _popularity_user(self) -> Any:
        vector = self._manifest.popularity_user
        return None if vector is None else np.array(vector, np.float32)

    def _users(self, n: int) -> Users:
        entries, keys = self._of("interactions"), self._of("keys")
        columns = {
            **{name: self._array(f"user_{name}", dtype, (n,)) for name, dtype in USER_DTYPES.items()},
            **{name: self._array(f"history_{name}", dtype, (entries,)) for name, dtype in HISTORY_DTYPES.items()},
            **{name: self._array(_key_file(name), dtype, (keys,)) for name, dtype in KEY_DTYPES.items()},
            **{
                name: self._array(f"user_{name}", dtype, (n,))
                for name, dtype in SEGMENT_DTYPES.items()
                if self._manifest.policy.segment_key
            },
            "history_start": self._starts("history_start", n, entries, self._manifest.policy.history_capacity),
            "key_start": self._starts("key_start", n, keys, self._manifest.policy.keys_capacity),
        }
        return Users(ids=self._ids("user_ids", n), suppressed=self._suppressed(n), **columns)

    def _of(self, name: str) -> int:
        if name not in self._count:
            raise self._folder.damaged(MANIFEST, f"lacks counts.{name}")
        return self._count[name]

    def _sum(self, name: str) -> str:
        if name not in self._sums:
            raise self._folder.damaged(MANIFEST, f"has no SHA-256 of {name}")
        return self._sums[name]

    def _array(self, name: str, dtype: str, shape: tuple[int, ...]) -> Any:
        file = f"{name}.npy"
        return self._folder.array(file, dtype, shape, self._sum(file))

    def _starts(self, name: str, n: int, total: int, capacity: int) -> Any:
        start = self._array(name, "<i8", (n + 1,))
        lengths = np.diff(start)
        if start[0] != 0 or start[-1] != total or (lengths < 0).any() or (lengths > capacity).any():
            raise self._folder.damaged(f"{name}.npy", "does not cut its columns into users")
        return start

    def _ids(self, name: str, count: int) -> list[str]:
        data = self._folder.read(name, at_least=count * 4, at_most=count * _ID_BYTES, sha256=self._sum(name))
        try:
            ids = [msgspec.json.decode(line, type=str) for line in data.splitlines()]
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self._folder.damaged(name, "is not one JSON string a line") from None
        if len(ids) != count or len(set(ids)) != count:
            raise self._folder.damaged(name, f"does not hold {count:,} distinct ids")
        return ids

    def _suppressed(self, n: int) -> dict[int, tuple[Suppression, ...]]:
        data = self._folder.read("suppressed", at_most=_SUPPRESSED_BYTES, sha256=self._sum("suppressed"))
        try:
            rows = [_SUPPRESSED.decode(line) for line in data.splitlines()]
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self._folder.damaged("suppressed", "is not one JSON array a line") from None
        if any(not 0 <= user < n for user, _ in rows):
            raise self._folder.damaged("suppressed", "names a user who is not there")
        return {user: tuple(entries) for user, entries in rows}
