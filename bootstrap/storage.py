"""A folder of files at any fsspec URL: written aside, then renamed; read only after sizes and sums agree.

A plain path is the local disk. On a local disk the rename is one atomic step; elsewhere the files are moved one by one
and the manifest last, so that a folder with a manifest is always whole.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import numpy.typing as npt

from streamer.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MANIFEST = "manifest.json"
_HEADER_BYTES = 4096  # more than any .npy header needs


def join(base: str, name: str) -> str:
    """The URL of ``name`` under ``base``; a local one as an absolute path, which means the same from everywhere."""
    if "://" not in base:
        return str(Path(base).expanduser().resolve() / name)
    return f"{base.rstrip('/')}/{name}"


def save_array(array: npt.NDArray[Any]) -> bytes:
    """The bytes of a .npy file without pickle."""
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(array), allow_pickle=False)
    return out.getvalue()


def sums(files: Mapping[str, bytes]) -> dict[str, str]:
    """The SHA-256 of each file, in hex."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def write_folder(url: str, files: Mapping[str, bytes], manifest: bytes) -> None:
    """Write the files and the manifest as the new folder ``url``.

    Raises:
        DataError: the folder is there already, or cannot be written.
    """
    fs, path = _open(url)
    aside = f"{path}.part"
    try:
        if fs.exists(path):
            raise DataError(f"{url} is there already: an artifact is never overwritten, remove it or fit again.")
        if fs.exists(aside):
            fs.rm(aside, recursive=True)
        fs.makedirs(aside)
        for name, data in [*files.items(), (MANIFEST, manifest)]:
            with fs.open(f"{aside}/{name}", "wb") as file:
                file.write(data)
        _rename(fs, aside, path, [*files, MANIFEST])
    except OSError as problem:
        raise DataError(f"{url} cannot be written: {problem}.") from None


def _rename(fs: Any, aside: str, path: str, names: Iterable[str]) -> None:
    if "file" in _protocols(fs):
        Path(aside).rename(path)
        return
    fs.makedirs(path, exist_ok=True)
    for name in names:
        fs.mv(f"{aside}/{name}", f"{path}/{name}")
    fs.rm(aside, recursive=True)


class Folder:
    """A folder that was written by `write_folder`, read with suspicion."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._path = _open(url)

    def read(self, name: str, *, at_least: int = 0, at_most: int, sha256: str | None = None) -> bytes:
        """The bytes of one file, after its size and then its sum were checked.

        Raises:
            DataError: missing, unreadable, of another size or of another sum.
        """
        path = f"{self._path}/{name}"
        try:
            size = int(self._fs.info(path)["size"])
            if not at_least <= size <= at_most:
                raise self.damaged(name, f"has {size:,} bytes where {at_least:,} to {at_most:,} are right")
            with self._fs.open(path, "rb") as file:
                data: bytes = file.read(at_most + 1)
        except FileNotFoundError:
            raise self.damaged(name, "is missing") from None
        except OSError as problem:
            raise self.damaged(name, f"cannot be read ({problem})") from None
        if len(data) != size:
            raise self.damaged(name, f"changed while it was read, from {size:,} to {len(data):,} bytes")
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise self.damaged(name, "does not have the SHA-256 that the manifest gives")
        return data

    def array(self, name: str, dtype: str, shape: tuple[int, ...], sha256: str) -> npt.NDArray[Any]:
        """A .npy file of exactly this dtype and shape.

        Raises:
            DataError: as `read`, or not an array of this kind.
        """
        payload = int(np.prod(shape)) * np.dtype(dtype).itemsize
        data = self.read(name, at_least=payload, at_most=payload + _HEADER_BYTES, sha256=sha256)
        try:
            array = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError, OSError):
            raise self.damaged(name, "is not a .npy file") from None
        if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype) or array.shape != shape:
            found = f"{getattr(array, 'dtype', '?')} {getattr(array, 'shape', '?')}"
            raise self.damaged(name, f"holds {found} where {np.dtype(dtype)} {shape} is right")
        return array

    def damaged(self, name: str, what: str) -> DataError:
        """The one sentence that names the file, what is wrong with it, and what to do."""
        return DataError(f"{name} in {self.url} {what}: fit again, or copy the artifact afresh.")


def _open(url: str) -> tuple[Any, str]:
    """The file system behind a URL and the path in it."""
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as problem:
        raise DataError(f"{url} cannot be opened: {problem}.") from None
    return fs, path.rstrip("/")


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
