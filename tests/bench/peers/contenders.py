"""Who is compared, and what each is tuned over: every combination of the values named, on the first half alone."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.peers.eals import EALS
from tests.bench.peers.implicit_als import ImplicitALS
from tests.bench.peers.isgd import ISGD
from tests.bench.peers.oryx import Oryx
from tests.bench.peers.ours import Frozen, Retrained, Streamed
from tests.bench.peers.popularity import Popularity
from tests.bench.peers.replay import Peer
from tests.bench.peers.river_mf import River

FOUND = Path(__file__).with_name("ours.toml")
"""What `bootstrap search` found for this project; the file says how."""

Make = Callable[..., Peer]
"""Takes the seed, and the parameters by name."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One row: ``values`` of each parameter that is tuned; ``like``: the row whose parameters it takes instead."""

    name: str
    make: Make
    values: dict[str, tuple[Any, ...]]
    note: str
    seeded: bool = True
    like: str | None = None

    def grid(self) -> list[dict[str, Any]]:
        """Every combination."""
        return [dict(zip(self.values, chosen, strict=True)) for chosen in itertools.product(*self.values.values())]


def contenders(found: Path) -> list[Contender]:
    """All rows; ``found``: this project's parameters, and the dimension that all but SGD on ratings use."""
    chosen = tomllib.loads(found.read_text("utf-8"))
    policy, training = chosen["policy"], chosen["bootstrap"]
    k = training["dimension"]

    def streamed(seed: int, **changes: Any) -> Peer:
        return Streamed(seed, policy={**policy, **changes}, **training)

    return [
        Contender("popularity", lambda seed: Popularity(), {}, "counted up to each event", seeded=False),
        Contender(
            "frozen batch ALS",
            lambda seed, **given: Frozen(seed, dimension=k, **given),
            {"alpha": (1.0, 5.0, 20.0), "ridge": (5.0, 20.0, 60.0)},
            "users unknown at the cut: popularity",
        ),
        Contender(
            "retrained every 1,000 events",
            lambda seed, **given: Retrained(seed, every=1000, dimension=k, **given),
            {},
            "the frozen one with its parameters, fitted anew on everything",
            like="frozen batch ALS",
        ),
        Contender("ours, users folded in", streamed, {}, "the workers' user step, bytes to bytes"),
        Contender(
            "ours, users and items online",
            streamed,
            {"sgd_rate": (0.001, 0.003, 0.01)},
            "user and item step; speed by the slow path that the bench needs",
        ),
        Contender(
            "implicit, whole history",
            lambda seed, **given: ImplicitALS(seed, whole=True, factors=k, **given),
            {"alpha": (5.0, 20.0), "regularization": (5.0, 20.0, 60.0)},
            "`partial_fit_users`",
        ),
        Contender(
            "implicit, new events only",
            lambda seed, **given: ImplicitALS(seed, whole=False, factors=k, **given),
            {"alpha": (5.0, 50.0), "regularization": (5.0, 20.0)},
            "`partial_fit_users`",
        ),
        Contender(
            "Oryx 2's rule",
            lambda seed, **given: Oryx(seed, dimension=k, **given),
            {"alpha": (5.0,), "ridge": (5.0, 20.0, 60.0), "strength": (0.25, 1.0, 4.0)},
            "own implementation, numpy; begins with our batch ALS",
        ),
        Contender(
            "eALS",
            lambda seed, **given: EALS(seed, dimension=k, **given),
            {"c0": (64.0, 512.0), "ridge": (1.0, 10.0), "w_new": (1.0, 4.0)},
            "own implementation, sweeps compiled",
        ),
        Contender(
            "ISGD",
            ISGD,
            {"dimension": (16, 64), "rate": (0.02, 0.05), "reg": (0.01, 0.1), "passes": (1, 5)},
            "own implementation, numpy",
        ),
        Contender(
            "River BiasedMF",
            lambda seed, **given: River(seed, factors=16, **given),
            {"rate": (0.02, 0.05), "l2": (0.01, 0.05), "negatives": (1, 4), "passes": (1,)},
            "likes as 1, sampled negatives as 0",
        ),
    ]
