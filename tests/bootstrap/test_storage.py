"""Folders of files: whole or not there, and believed only after a check."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from bootstrap.storage import MANIFEST, Folder, join, save_array, sums, write_folder
from streamer.errors import DataError

FILES = {"a": b"first", "b.npy": save_array(np.arange(6, dtype="<i8").reshape(2, 3))}


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place on the disk, and one in another fsspec file system."""
    base = str(tmp_path) if request.param == "local" else f"memory://{uuid4().hex}"
    return join(base, "model")


def test_what_was_written_is_read(url: str) -> None:
    """Every file comes back, and nothing is left aside."""
    write_folder(url, FILES, b"{}")
    folder, expected = Folder(url), sums(FILES)
    assert folder.read("a", at_most=10, sha256=expected["a"]) == b"first"
    array = folder.array("b.npy", "<i8", (2, 3), expected["b.npy"])
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert folder.read(MANIFEST, at_most=10) == b"{}"
    if "://" not in url:
        assert sorted(path.name for path in Path(url).parent.iterdir()) == ["model"]
        assert not Path(f"{url}.part").exists()


def test_a_folder_is_never_overwritten(url: str) -> None:
    """A version is written once."""
    write_folder(url, FILES, b"{}")
    with pytest.raises(DataError, match="never overwritten"):
        write_folder(url, FILES, b"{}")


def test_what_a_crash_left_aside_is_no_obstacle(tmp_path: Path) -> None:
    """Half a folder of an earlier run is swept away, and never seen as an artifact."""
    (tmp_path / "model.part").mkdir()
    (tmp_path / "model.part" / "stale").write_bytes(b"x")
    write_folder(str(tmp_path / "model"), FILES, b"{}")
    assert not (tmp_path / "model" / "stale").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """One sentence, not a stack trace."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be written"):
        write_folder(str(tmp_path / "file" / "model"), FILES, b"{}")
    with pytest.raises(DataError, match="cannot be opened"):
        write_folder("nosuchprotocol://bucket/model", FILES, b"{}")


def test_a_wrong_size_is_refused_before_reading(url: str) -> None:
    """A file that cannot be right is never loaded."""
    write_folder(url, FILES, b"{}")
    with pytest.raises(DataError, match="has 5 bytes where 0 to 4"):
        Folder(url).read("a", at_most=4)
    with pytest.raises(DataError, match="is missing"):
        Folder(url).read("c", at_most=4)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    """An array of objects would run code when loaded: it is refused even when its sum is right."""
    evil = {"b.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(128)}
    evil["b.npy"] += b"cbuiltins\nprint\n(S'run'\ntR."  # what loading it would do: print("run")
    url = str(tmp_path / "model")
    write_folder(url, evil, b"{}")
    with pytest.raises(DataError, match=r"not a \.npy file"):
        Folder(url).array("b.npy", "<i8", (1,), sums(evil)["b.npy"])


def test_an_array_of_another_kind_is_refused(tmp_path: Path) -> None:
    """Shape and dtype are part of what the manifest promises."""
    url = str(tmp_path / "model")
    write_folder(url, FILES, b"{}")
    for dtype, shape in (("<i8", (3, 2)), ("<f8", (2, 3))):
        with pytest.raises(DataError, match="is right"):
            Folder(url).array("b.npy", dtype, shape, sums(FILES)["b.npy"])
