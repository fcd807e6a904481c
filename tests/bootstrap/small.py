"""Small logs, policies and settings for the tests of the bootstrap job."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from bootstrap.als import Training
from bootstrap.fit import Recipe
from bootstrap.read import Log, read_file
from ops.data import synthetic
from schemas.records import Policy
from streamer.events.read import Reader
from streamer.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bootstrap.model import Model
    from schemas.records import Manifest

NOW_MS = 1_800_000_000_000
KEY = bytes(range(16))
SHAPE = synthetic.Shape(users=120, items=150, events=6_000, factors=6, sharpness=6.0)


@contextmanager
def quiet(what: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """No progress shown."""
    yield lambda done, note: None


def event(user: str = "u", item: str = "i", kind: str = "like", at: int = NOW_MS, **fields: Any) -> dict[str, Any]:
    """One event as a dict; the request id follows from what it is unless it is given."""
    fields.setdefault("request_id", f"{user}/{item}/{kind}/{at}")
    return {"user_id": user, "item_id": item, "event_type": kind, "timestamp": at, **fields}


@dataclass(slots=True)
class Reading:
    """Reads events through a file, as the job does."""

    folder: Path

    def __call__(self, *events: dict[str, Any] | bytes, policy: Policy | None = None, **reader: Any) -> Log:
        path = self.folder / "events.ndjson"
        lines = [line if isinstance(line, bytes) else orjson.dumps(line) for line in events]
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        policy = policy or Policy()
        options = {"tenant": None, "max_bytes": 65_536, "invalid_items": frozenset[str](), **reader}
        return read_file(str(path), Reader(policy, **options), policy, now_ms=NOW_MS)


def recipe(policy: Policy, **changes: Any) -> Recipe:
    """A small fit."""
    training = {"dimension": 8, "iterations": 8, "seed": 0, "ridge": policy.ridge, "rhs": policy.rhs, **changes}
    return Recipe(Training(**training), policy, 1e-6, 10, 0.8)


def settings_of(folder: Path, **environ: str) -> Settings:
    """Settings of a small fit whose artifacts lie in a folder."""
    return load_settings(
        None,
        {
            "FACTORS_BOOTSTRAP__DIMENSION": "8",
            "FACTORS_BOOTSTRAP__ITERATIONS": "6",
            "FACTORS_BOOTSTRAP__ARTIFACTS": str(folder),
            **environ,
        },
    )


@dataclass(frozen=True, slots=True)
class Made:
    """A trained generation, and the file that it was trained on."""

    manifest: Manifest
    model: Model
    log: Log
    events: Path


def changed(policy: Policy | None = None, **fields: Any) -> Policy:
    """A policy with some fields changed."""
    return msgspec.structs.replace(policy or Policy(), **fields)
