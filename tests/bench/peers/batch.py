"""Batch ALS by this project's own job, for the contenders that need a fitted model to begin with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bootstrap.als import Training
from bootstrap.columns import POSITIVE, Columns
from bootstrap.fit import Recipe, fit
from schemas.records import DAY_MS, Policy
from streamer.events.hashes import item_hash
from tests.bench.peers.events import F64, Events, Split
from tests.bootstrap.small import quiet

if TYPE_CHECKING:
    from bootstrap.model import Model

ITEM_KEY = bytes(16)
YEARS_MS = 20 * 365 * DAY_MS


@dataclass(frozen=True, slots=True)
class Factors:
    """users: (known_users, k), items: (known_items, k)."""

    users: F64
    items: F64


def item_id(item: int) -> str:
    """Ids sort as numbers do, as the job sorts items by id."""
    return f"item-{item:06d}"


def user_id(user: int) -> str:
    """The name of a user."""
    return f"user-{user:06d}"


def columns_of(events: Events, weight: float) -> Columns:
    """The events as the job's columns, each of this weight."""
    users, items, count = int(events.user.max()) + 1, int(events.item.max()) + 1, len(events)
    return Columns(
        user=events.user,
        item=events.item,
        kind=np.full(count, POSITIVE, np.int8),
        weight=np.full(count, weight),
        at=events.at,
        after=np.zeros(count, np.int64),
        request=np.arange(1, count + 1).astype(np.uint64),
        fingerprint=np.zeros(count, np.uint32),
        segment=np.zeros(count, np.uint64),
        user_ids=[user_id(user) for user in range(users)],
        item_ids=[item_id(item) for item in range(items)],
        hashes=np.array([item_hash(item_id(item), ITEM_KEY) for item in range(items)], np.uint64),
    )


def recipe_of(policy: Policy, seed: int, **training: Any) -> Recipe:
    """What the job is told; one thread, as everybody has one core."""
    whole = {"iterations": 15, "ridge": policy.ridge, "rhs": policy.rhs, "threads": 1, **training}
    return Recipe(Training(seed=seed, **whole), policy, tolerance=1e-6, k=10, train_fraction=0.5)


def trained(events: Events, weight: float, policy: Policy, seed: int, **training: Any) -> Model:
    """A model of these events."""
    return fit(columns_of(events, weight), recipe_of(policy, seed, **training), quiet)[0]


def train(split: Split, dimension: int, *, alpha: float, ridge: float, seed: int) -> Factors:
    """Plain implicit ALS, c = 1 + alpha, without decay or window, of the events before the cut."""
    policy = Policy(
        half_life_ms=0, confidence="linear", alpha=alpha, ridge=ridge, history_capacity=1024, window_ms=YEARS_MS
    )
    model = trained(split.before, 1.0, policy, seed, dimension=dimension)
    return Factors(model.user_vectors.astype(np.float64), model.items.astype(np.float64))
