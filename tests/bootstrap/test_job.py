"""The job as a whole: the same data and seed give the same generation; what it says of itself is right."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from bootstrap import artifact
from bootstrap.artifact import files_of
from bootstrap.job import Lineage, Source, lineage, make, model_version, read
from schemas.records import Manifest
from streamer.errors import DataError
from tests.bootstrap.small import KEY, NOW_MS, event, quiet, settings_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bootstrap.small import Made, Reading


def test_the_same_data_and_seed_give_the_same_bytes(made: Made, tmp_path: Path) -> None:
    """Every file of the artifact, and the manifest, repeat; another seed gives other vectors."""
    settings = settings_of(tmp_path)
    manifest, model = make(settings, made.log, Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
    assert manifest == made.manifest
    assert files_of(model) == files_of(made.model)
    other = settings_of(tmp_path, FACTORS_BOOTSTRAP__SEED="7")
    _, model = make(other, made.log, Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
    assert not np.array_equal(model.items, made.model.items)


def test_the_manifest_says_what_was_done(made: Made) -> None:
    """Counts, times, policy and gates are those of the data, and it survives its own JSON."""
    manifest, log = made.manifest, made.log
    assert manifest.counts["records"] == log.records == len(made.events.read_bytes().splitlines())
    assert manifest.counts["events"] == manifest.counts["applied"] + manifest.counts["suppressed"]
    assert manifest.counts["items"] == len(made.model.items)
    assert manifest.training_data_start == min(one.timestamp for one in log.events)
    assert manifest.training_data_end == max(one.timestamp for one in log.events) == NOW_MS
    assert manifest.cut_offsets == {}
    assert manifest.item_key == KEY.hex()
    assert all(gate.passed for gate in manifest.gates)
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest


def test_versions_sort_by_time() -> None:
    """The name is the moment in UTC and the first digits of the data's hash."""
    assert model_version(1_795_232_663_000, "4edb74e2a8") == "20261121T034423Z-4edb74e2"
    assert model_version(1_795_232_663_000, "f") < model_version(1_795_232_664_000, "0")


def test_a_file_without_anything_to_learn_is_refused(reading: Reading, tmp_path: Path) -> None:
    """The sentence says what became of the records."""
    reading(event(consent=False), event(item="b", consent=False), b"{")
    with pytest.raises(DataError, match=r"2 filtered \(no_consent\), 1 dead_letter \(not_json\)"):
        read(settings_of(tmp_path), Source(str(tmp_path / "events.ndjson")), NOW_MS)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(DataError, match="it is empty"):
        read(settings_of(tmp_path), Source(str(tmp_path / "empty")), NOW_MS)


def test_one_event_is_enough(reading: Reading, tmp_path: Path) -> None:
    """A young shop has one user: a generation comes out, and its gates do not stand in the way."""
    log = reading(event())
    manifest, model = make(settings_of(tmp_path), log, Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
    assert model.items.shape == (1, 8)
    assert all(gate.passed for gate in manifest.gates)


def test_the_item_key_is_inherited(made: Made, tmp_path: Path) -> None:
    """Kept histories name items by keyed hashes: a later generation must read them."""
    parent = artifact.write(str(tmp_path), made.manifest, made.model)
    settings = settings_of(tmp_path)
    source = Source(None, parent=parent.artifact.uri)
    heritage = lineage(settings, source, lambda size: b"\1" * size, ask_topics=False)
    assert (heritage.item_key, heritage.parent_version) == (KEY, parent.model_version)
    fresh = lineage(settings, dataclasses.replace(source, parent=None), lambda size: b"\1" * size, ask_topics=False)
    assert fresh == Lineage(b"\1" * 16, None)


def test_a_warm_start_begins_where_the_parent_ended(made: Made, tmp_path: Path) -> None:
    """Its first round is better than a cold one's; metrics are of a cold fit, since the parent has seen the test."""
    parent = artifact.write(str(tmp_path), made.manifest, made.model)
    settings = settings_of(tmp_path, FACTORS_BOOTSTRAP__ITERATIONS="1")
    source = Source(str(made.events), parent=parent.artifact.uri, warm_start=True)
    heritage = lineage(settings, source, lambda size: b"", ask_topics=False)
    assert (heritage.item_key, heritage.parent_version) == (KEY, parent.model_version)
    log = read(settings, source, NOW_MS)
    cold_manifest, cold = make(settings, log, Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
    warm_manifest, warm = make(settings, log, heritage, now_ms=NOW_MS, show=quiet)
    assert warm.item_ids == made.model.item_ids

    def away(items: npt.NDArray[np.float32]) -> float:
        return float(np.linalg.norm(items - made.model.items) / np.linalg.norm(made.model.items))

    assert away(warm.items) < 0.5 * away(cold.items)
    assert warm_manifest.metrics["ndcg"] == cold_manifest.metrics["ndcg"]
    with pytest.raises(DataError, match=r"dimension 8, and bootstrap\.dimension is 9"):
        lineage(settings_of(tmp_path, FACTORS_BOOTSTRAP__DIMENSION="9"), source, lambda size: b"", ask_topics=False)
    with pytest.raises(DataError, match="nothing to start warm from"):
        lineage(settings, dataclasses.replace(source, parent=None), lambda size: b"", ask_topics=False)
