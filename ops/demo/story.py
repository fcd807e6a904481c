"""What the demo shows: how a vector and its recommendations changed, and how fast."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ops.demo.errors import DemoError

Vector = npt.NDArray[np.float32]
Event = dict[str, Any]
_TOP = 10


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: cosine of the user's vector to the clicked film's, before and after."""

    user: str
    title: str
    before: float
    after: float
    entered: tuple[str, ...]
    latency_ms: float


class Films:
    """The films that have a vector: titles, and what a user's vector recommends."""

    def __init__(self, vectors: Mapping[str, Vector], titles: Mapping[str, str]) -> None:
        self._ids = sorted(vectors)
        self._matrix = np.stack([vectors[item] for item in self._ids])
        self._vectors, self._titles = vectors, titles

    def title(self, item: str) -> str:
        """The title, or the id where the catalogue has none."""
        return self._titles.get(item, item)

    def cosine(self, user: Vector, item: str) -> float:
        """The angle between a user and a film."""
        film = self._vectors[item]
        return float(user @ film / max(float(np.linalg.norm(user) * np.linalg.norm(film)), 1e-12))

    def top(self, user: Vector, seen: Iterable[str]) -> list[str]:
        """The best films by score that the user has not seen."""
        out, hidden = [], set(seen)
        for at in np.argsort(-(self._matrix @ user), kind="stable"):
            if self._ids[at] not in hidden:
                out.append(self._ids[at])
                if len(out) == _TOP:
                    break
        return out

    def row(self, user: str, item: str, before: Vector, after: Vector, seen: set[str], latency: float) -> Row:
        """How one click changed one user; the three best recommendations that entered."""
        old = set(self.top(before, seen - {item}))
        entered = [self.title(one) for one in self.top(after, seen) if one not in old][:3]
        return Row(user, self.title(item), self.cosine(before, item), self.cosine(after, item), tuple(entered), latency)


def three_films(
    live: Iterable[Event], before: Iterable[Event], genres: Mapping[str, Any], known: set[str]
) -> list[str]:
    """Three well-known films of one genre: the most popular ones of the genre whose third is the most popular."""
    counts = Counter(event["item_id"] for events in (before, live) for event in events if event["item_id"] in known)
    by_genre: dict[str, list[str]] = {}
    for item, _ in counts.most_common():
        for genre in genres.get(item, ()):
            by_genre.setdefault(genre, []).append(item)
    fitting = {genre: items[:3] for genre, items in by_genre.items() if len(items) >= 3}
    if not fitting:
        raise DemoError("no genre has three films with a vector")
    # Drama and Comedy hold everything; a narrower genre makes the change easier to see.
    narrow = {genre: items for genre, items in fitting.items() if len(by_genre[genre]) < len(known) / 6} or fitting
    return narrow[max(narrow, key=lambda genre: counts[narrow[genre][2]])]


def notes(path: Path) -> list[dict[str, Any]]:
    """What the measuring process wrote; a line that is still being written is left for the next look."""
    text = path.read_text() if path.exists() else ""
    found: list[dict[str, Any]] = [json.loads(line) for line in text.split("\n")[:-1]]
    return found


def wait_for_note(path: Path, kind: str, item: str, version: int, seconds: float = 20.0) -> dict[str, Any]:
    """The note that a vector arrived at a version.

    Raises:
        DemoError: it did not in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found: dict[str, Any]
        for found in reversed(notes(path)):
            if found.get("kind") == kind and found["id"] == item and found["version"] >= version:
                return found
        time.sleep(0.02)
    raise DemoError(f"no new vector of the {kind} {item} was published within {seconds:.0f} s")


def latencies(path: Path, sent: Mapping[str, float]) -> npt.NDArray[np.float64]:
    """Milliseconds from sending the newest event in each published user vector to the vector's arrival."""
    found = [
        note["at"] - sent[note["source"]]
        for note in notes(path)
        if note.get("kind") == "user" and note["source"] in sent
    ]
    return np.array(found, np.float64)
