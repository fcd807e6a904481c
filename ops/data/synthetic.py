"""A made-up film shop with known taste: planted factors, skewed popularity, drifting users, sessions.

A user's taste moves on a line from one random direction to another over the whole time; an item is chosen in
a session with probability proportional to exp(sharpness * taste.item + popularity). Items may move in the same way, and
some may appear only on the way. The same shape and seed give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ops.data.dataset import Dataset, Event, Item

F64 = npt.NDArray[np.float64]
DAY_MS = 86_400_000
_GENRES = ("Drama", "Comedy", "Thriller", "Romance", "Western", "Mystery", "Musical", "Adventure")
_FIRST = ("Quiet", "Last", "Golden", "Broken", "Distant", "Crimson", "Hidden", "Northern", "Silent", "Paper")
_SECOND = (
    "Harbour",
    "Winter",
    "Orchard",
    "Letter",
    "Lantern",
    "River",
    "Garden",
    "Signal",
    "Summer",
    "Station",
)
# What people do with an item that they chose; every fiftieth time they would rather not see it again.
_TYPES = ("view", "click", "like", "cart", "watch_complete", "purchase", "hide")
_TYPE_WEIGHTS = (0.34, 0.28, 0.16, 0.08, 0.08, 0.04, 0.02)


@dataclass(frozen=True, slots=True)
class Shape:
    """How large and how hard the made-up world is."""

    users: int = 1_000
    items: int = 1_500
    events: int = 55_000  # fewer where a user has had every item
    factors: int = 8
    sharpness: float = 8.0  # how much taste decides, against popularity
    skew: float = 0.6  # standard deviation of the log of item popularity and of user activity
    drift: float = 0.3  # share of the way that a taste moves to its second direction
    item_drift: float = 0.0  # the same for what an item is
    newcomers: float = 0.0  # share of the items that appear only later, at any time but the first fifth
    session: float = 8.0  # mean events a session
    days: int = 60
    end_ms: int = 1_767_225_600_000  # 2026-01-01T00:00:00Z

    def __post_init__(self) -> None:
        if min(self.users, self.items, self.factors, self.days) < 1 or self.events < 0:
            raise ValueError(f"a made-up world needs users, items, factors and days: {self}")


@dataclass(frozen=True, slots=True)
class Planted:
    """The truth behind the events.

    taste_first, taste_last: (users, k); items, items_last: (items, k); popularity: (items,); genres: (items, 2), the
    nearest first; appears: (items,) when, as a share of the whole time.
    """

    taste_first: F64
    taste_last: F64
    items: F64
    items_last: F64
    popularity: F64
    genres: npt.NDArray[np.intp]
    appears: F64


def load(seed: int = 0, shape: Shape | None = None, note: str = "") -> Dataset:
    """The events and catalogue of this seed, in time order."""
    shape = shape or Shape()
    planted, draw = plant(seed, shape), np.random.default_rng([seed, 1])
    return Dataset("synthetic", _events(seed, shape, planted, draw), _items(planted), note)


def plant(seed: int, shape: Shape) -> Planted:
    """Unit item vectors around one centre a genre, and two unit directions a user."""
    draw = np.random.default_rng([seed, 0])
    centres = _unit(draw.standard_normal((len(_GENRES), shape.factors)))
    genre = draw.integers(len(_GENRES), size=shape.items)
    items = _unit(centres[genre] + 0.5 * draw.standard_normal((shape.items, shape.factors)))
    first = _unit(draw.standard_normal((shape.users, shape.factors)))
    second = _unit(draw.standard_normal((shape.users, shape.factors)))
    last = _unit((1 - shape.drift) * first + shape.drift * second)
    nearest = np.argsort(-(items @ centres.T), axis=1, kind="stable")[:, :2]
    popularity = shape.skew * draw.standard_normal(shape.items)
    late = np.random.default_rng([seed, 2])
    moved = _unit((1 - shape.item_drift) * items + shape.item_drift * _unit(late.standard_normal(items.shape)))
    appears = np.where(late.random(shape.items) < shape.newcomers, late.uniform(0.2, 1.0, shape.items), 0.0)
    return Planted(first, last, items, moved if shape.item_drift else items, popularity, nearest, appears)


def _unit(rows: F64) -> F64:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float64)


def _events(seed: int, shape: Shape, planted: Planted, draw: np.random.Generator) -> tuple[Event, ...]:
    activity = np.exp(shape.skew * draw.standard_normal(shape.users))
    sessions = max(1, round(shape.events / shape.session))
    owner = draw.choice(shape.users, sessions, p=activity / activity.sum())
    # Users arrive over the whole time: nobody has a session before their first day.
    arrival = draw.random(shape.users) * 0.8
    at = arrival[owner] + (1 - arrival[owner]) * draw.random(sessions)
    owner, at = owner[np.argsort(at, kind="stable")], np.sort(at)
    lengths = np.diff(np.round(np.linspace(0, shape.events, sessions + 1)).astype(int))
    seen: dict[int, set[int]] = {}
    rows: list[tuple[int, int, int, str]] = []
    for user, moment, length in zip(owner.tolist(), at.tolist(), lengths.tolist(), strict=True):
        chosen = _session(user, moment, length, shape, planted, draw, seen.setdefault(user, set()))
        start = shape.end_ms - round((1 - moment) * shape.days * DAY_MS)
        times = start - np.cumsum(draw.integers(2_000, 90_000, len(chosen)))[::-1]
        kinds = draw.choice(len(_TYPES), len(chosen), p=_TYPE_WEIGHTS)
        rows += [
            (time, user, item, _TYPES[kind])
            for time, item, kind in zip(times.tolist(), chosen, kinds.tolist(), strict=True)
        ]
    rows.sort()
    return tuple(
        {
            "request_id": f"made-{seed}-{number}",
            "user_id": f"user-{user}",
            "item_id": f"item-{item}",
            "event_type": kind,
            "timestamp": time,
        }
        for number, (time, user, item, kind) in enumerate(rows)
    )


def _session(
    user: int,
    moment: float,
    length: int,
    shape: Shape,
    planted: Planted,
    draw: np.random.Generator,
    seen: set[int],
) -> list[int]:
    """``length`` items new to this user, by the Gumbel trick: the top of logit + noise is a sample."""
    taste = (1 - moment) * planted.taste_first[user] + moment * planted.taste_last[user]
    items = planted.items
    if shape.item_drift:
        items = (1 - moment) * planted.items + moment * planted.items_last
    logits = shape.sharpness * (items @ taste) + planted.popularity + draw.gumbel(size=shape.items)
    logits[list(seen)] = -np.inf
    logits[planted.appears > moment] = -np.inf
    there = int(np.count_nonzero(np.isfinite(logits)))
    order: list[int] = np.argsort(-logits, kind="stable")[: min(length, there)].tolist()
    seen.update(order)
    return order


def _items(planted: Planted) -> tuple[Item, ...]:
    """Titles of two words and a number; the genres nearest to the item."""
    return tuple(_item(number, genres) for number, genres in enumerate(planted.genres.tolist()))


def _item(number: int, genres: list[int]) -> Item:
    first, second = _FIRST[number % len(_FIRST)], _SECOND[number // len(_FIRST) % len(_SECOND)]
    volume = number // (len(_FIRST) * len(_SECOND))
    return {
        "item_id": f"item-{number}",
        "title": f"The {first} {second}" + (f" {volume + 1}" if volume else ""),
        "attributes": {"genres": [_GENRES[index] for index in genres], "year": 1990 + number % 35},
    }
