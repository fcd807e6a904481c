"""Fixtures of the bootstrap job's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bootstrap.job import Lineage, make
from bootstrap.read import read_file
from ops.data import synthetic, write_ndjson
from streamer.events.read import Reader
from tests.bootstrap.small import KEY, NOW_MS, SHAPE, Made, Reading, quiet, settings_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    """Call it with events (dicts, or bytes as they are) to get their log."""
    return Reading(tmp_path)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A generation trained on made-up data."""
    folder = tmp_path_factory.mktemp("made")
    path, settings = folder / "events.ndjson", settings_of(folder)
    write_ndjson(path, synthetic.load(3, SHAPE).rebase(NOW_MS).events)
    reader = Reader(settings.policy, tenant=None, max_bytes=65_536, invalid_items=())
    log = read_file(str(path), reader, settings.policy, now_ms=NOW_MS)
    manifest, model = make(settings, log, Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
    return Made(manifest, model, log, path)
