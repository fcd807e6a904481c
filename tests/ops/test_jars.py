"""Only the pinned bytes are ever run."""

import hashlib
from pathlib import Path

import pytest

from ops.broker import BrokerUnavailableError
from ops.broker import jars as jars_module
from ops.broker.jars import Jar, ensure_jars, kafka_version, read_lock


def _lock(folder: Path, **sums: str) -> Path:
    lines = [f"{sums['kafka']}  org.apache.kafka:kafka_2.13:9.9.9", f"{sums['other']}  org.example:other:1.0"]
    path = folder / "jars.sha256"
    path.write_text("# comment\n" + "\n".join(lines) + "\n", "utf-8")
    return path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def cached(tmp_path: Path) -> tuple[Path, Path]:
    """A cache that holds two "jars", and the lock that pins them."""
    folder = tmp_path / "kafka" / "9.9.9"
    folder.mkdir(parents=True)
    (folder / "kafka_2.13-9.9.9.jar").write_bytes(b"broker")
    (folder / "other-1.0.jar").write_bytes(b"other")
    return tmp_path, _lock(tmp_path, kafka=_sha256(b"broker"), other=_sha256(b"other"))


def test_the_lock_pins_every_jar_once() -> None:
    """Each line is a SHA-256 and a full coordinate; the broker and its logger are among them."""
    jars = read_lock()
    assert len({jar.file_name for jar in jars}) == len(jars)
    assert all(len(bytes.fromhex(jar.sha256)) == 32 for jar in jars)
    assert kafka_version(jars) == "4.1.1"
    assert any(jar.coordinates.startswith("org.slf4j:slf4j-simple:") for jar in jars)


def test_cached_jars_with_the_right_sums_are_the_class_path(cached: tuple[Path, Path]) -> None:
    """Nothing is fetched when everything is there."""
    cache, lock = cached
    names = [path.name for path in ensure_jars(cache=cache, lock=lock)]
    assert names == ["kafka_2.13-9.9.9.jar", "other-1.0.jar"]


def test_a_jar_changed_on_disk_is_refused(cached: tuple[Path, Path]) -> None:
    """One changed byte in the cache stops the start, in one sentence that names file and sums."""
    cache, lock = cached
    (cache / "kafka" / "9.9.9" / "other-1.0.jar").write_bytes(b"0ther")
    with pytest.raises(BrokerUnavailableError) as caught:
        ensure_jars(cache=cache, lock=lock)
    text = str(caught.value)
    assert "other-1.0.jar is refused" in text
    assert _sha256(b"0ther") in text
    assert _sha256(b"other") in text
    assert "\n" not in text


def test_a_jar_fetched_with_other_bytes_never_reaches_the_cache(
    cached: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository that serves something else is refused too, and leaves nothing half-way."""
    cache, lock = cached
    folder = cache / "kafka" / "9.9.9"
    (folder / "other-1.0.jar").unlink()

    def fetch(jar: Jar) -> Path:
        path = next(folder.glob(".incoming-*")) / jar.file_name
        path.write_bytes(b"something else")
        return path

    monkeypatch.setattr(jars_module, "_fetcher", lambda _aside: fetch)
    with pytest.raises(BrokerUnavailableError, match="is refused"):
        ensure_jars(cache=cache, lock=lock)
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "kafka_2.13-9.9.9.jar"]


def test_a_missing_jar_is_fetched_and_then_kept(cached: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetched aside, verified, moved into place; said in one line."""
    cache, lock = cached
    folder = cache / "kafka" / "9.9.9"
    (folder / "other-1.0.jar").unlink()
    said: list[str] = []

    def fetch(jar: Jar) -> Path:
        path = next(folder.glob(".incoming-*")) / jar.file_name
        path.write_bytes(b"other")
        return path

    monkeypatch.setattr(jars_module, "_fetcher", lambda _aside: fetch)
    ensure_jars(cache=cache, lock=lock, say=said.append)
    assert (folder / "other-1.0.jar").read_bytes() == b"other"
    assert len(said) == 1
    assert not list(folder.glob(".incoming-*"))
