"""The artifact: what is opened is what was written, and every damage is one sentence."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import orjson
import pytest

from bootstrap.artifact import files_of, open_artifact, open_manifest, write
from bootstrap.job import Lineage, make
from bootstrap.storage import save_array, sums
from streamer.errors import DataError
from tests.bootstrap.small import KEY, NOW_MS, changed, event, quiet, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.bootstrap.small import Made, Reading


@pytest.fixture
def folder(made: Made, tmp_path: Path) -> Path:
    """A good artifact."""
    manifest = write(str(tmp_path), made.manifest, made.model)
    return tmp_path / manifest.model_version


def columns(model: Any) -> dict[str, Any]:
    """Every array and list of a model, by name."""
    found: dict[str, Any] = {}
    for part in (model, model.users):
        found |= {one.name: getattr(part, one.name) for one in dataclasses.fields(part) if one.name != "users"}
    return found


def test_round_trip(made: Made, folder: Path) -> None:
    """Every array comes back bit for bit, every id and suppressed item too; the manifest names place and sums."""
    manifest, model = open_artifact(str(folder))
    before, after = columns(made.model), columns(model)
    assert before.keys() == after.keys()
    for name, value in before.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == after[name].dtype, name
            assert value.tobytes() == after[name].tobytes(), name
        else:
            assert value == after[name], name
    assert made.model.users.suppressed
    assert manifest.artifact.uri == str(folder)
    assert manifest.artifact.files == sums(files_of(made.model))
    assert msgspec.structs.replace(manifest, artifact=made.manifest.artifact) == made.manifest


def test_segments_and_weights_come_back(reading: Reading, tmp_path: Path) -> None:
    """What the options add: each user's segment, each segment's average, the weights, the popularity vector."""
    policy = changed(segment_key="device", blend_events=3, unobserved_power=0.5)
    rows = [
        event(
            f"u{n % 7}", f"i{n % 5}", at=NOW_MS - n, request_id=str(n), context={"device": "phone" if n % 7 else "tv"}
        )
        for n in range(60)
    ]
    settings = settings_of(tmp_path, FACTORS_BOOTSTRAP__SEGMENT_USERS="2").model_copy(update={"policy": policy})
    manifest, model = make(settings, reading(*rows, policy=policy), Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
    again, read = open_artifact(write(str(tmp_path), manifest, model).artifact.uri)
    assert list(again.segments) == ["phone"]
    before, after = columns(model), columns(read)
    for name in ("weights", "segment", "segment_at", "popularity_user"):
        assert before[name].tobytes() == after[name].tobytes(), name
    assert len(set(after["segment"].tolist())) == 2
    assert after["weights"].mean() == pytest.approx(1.0)
    assert after["segments"]["phone"].tobytes() == before["segments"]["phone"].tobytes()


def test_any_fsspec_url(made: Made) -> None:
    """The same folder in another file system."""
    manifest = write("memory://models", made.manifest, made.model)
    assert manifest.artifact.uri == f"memory://models/{manifest.model_version}"
    assert open_artifact(manifest.artifact.uri)[0] == manifest


NAMES = [
    "items.npy",
    "users.npy",
    "item_ids",
    "user_ids",
    "gramian_items.npy",
    "average_user.npy",
    "history_start.npy",
    "history_item.npy",
    "key_request.npy",
    "user_events.npy",
    "suppressed",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", ["missing", "empty", "short", "long", "flipped"])
def test_damage_is_one_sentence(folder: Path, name: str, damage: str) -> None:
    """Whatever happened to a file: which one, what is wrong, what to do; exit code 4."""
    path = folder / name
    data = path.read_bytes()
    changes: dict[str, Callable[[], object]] = {
        "missing": path.unlink,
        "empty": lambda: path.write_bytes(b""),
        "short": lambda: path.write_bytes(data[:-1]),
        "long": lambda: path.write_bytes(data + b"\0" * 5_000),
        "flipped": lambda: path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]),
    }
    changes[damage]()
    with pytest.raises(DataError) as caught:
        open_artifact(str(folder))
    text = str(caught.value)
    assert caught.value.exit_code == 4
    assert text.startswith(f"{name} in {folder} ")
    assert text.endswith("fit again, or copy the artifact afresh.")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda manifest: manifest.clear(), "not a manifest"),
        (lambda manifest: manifest.update(dimension=9), "not a manifest"),
        (lambda manifest: manifest.update(unknown=1), "not a manifest"),
        (lambda manifest: manifest["counts"].pop("users"), r"lacks counts\.users"),
        (lambda manifest: manifest["counts"].update(users=1), "where"),
        (lambda manifest: manifest["artifact"]["files"].pop("items.npy"), r"no SHA-256 of items\.npy"),
        (lambda manifest: manifest["average_user"].__setitem__(0, 9.0), "another average user"),
    ],
)
def test_a_manifest_that_lies_is_refused(folder: Path, change: Callable[[Any], object], word: str) -> None:
    """The manifest is held against the files, and the files against the manifest."""
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest))
    with pytest.raises(DataError, match=word):
        open_artifact(str(folder))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_manifest_that_is_no_json(folder: Path, content: bytes) -> None:
    """Half a manifest is none."""
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        open_manifest(str(folder))


def test_no_folder_at_all(tmp_path: Path) -> None:
    """A wrong path is the commonest mistake."""
    with pytest.raises(DataError, match=r"manifest\.json in .* is missing"):
        open_artifact(str(tmp_path / "nowhere"))


def resigned(folder: Path, name: str, data: bytes) -> None:
    """Change a file and its sum alike: what is wrong is then in the content alone."""
    (folder / name).write_bytes(data)
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    manifest["artifact"]["files"][name] = sums({name: data})[name]
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest))


def test_content_is_checked_beyond_its_sum(made: Made, folder: Path) -> None:
    """Ids that repeat, histories that overlap, a suppressed stranger: a right sum does not make them right."""
    users = made.model.users
    starts = users.history_start.copy()
    starts[1], starts[2] = starts[2], starts[1]
    resigned(folder, "history_start.npy", save_array(starts))
    with pytest.raises(DataError, match="does not cut its columns"):
        open_artifact(str(folder))
    resigned(folder, "history_start.npy", save_array(users.history_start))
    resigned(folder, "suppressed", b'[999999,[["i",1,2,3,4]]]\n')
    with pytest.raises(DataError, match="who is not there"):
        open_artifact(str(folder))
    good = (folder / "user_ids").read_bytes().splitlines(keepends=True)
    resigned(folder, "user_ids", b"".join([good[1], *good[1:]]))
    with pytest.raises(DataError, match="distinct ids"):
        open_artifact(str(folder))
