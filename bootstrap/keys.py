"""What a search varies: keys of the configuration and the values that made sense on any data so far, by objective.

A key is named as the configuration names it, and each name is in one of its tables only. A key that does nothing beside
the others (the session's gap where the session weighs nothing) is not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from schemas.records import DAY_MS
from streamer.errors import ConfigError

if TYPE_CHECKING:
    import optuna

    from bootstrap.fit import Recipe

_MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these values."""

    values: tuple[Any, ...]

    def draw(self, trial: optuna.Trial, name: str) -> Any:
        """What the trial takes."""
        return trial.suggest_categorical(name, self.values)

    @property
    def first(self) -> Any:
        """A value of it, always the same one."""
        return self.values[0]


@dataclass(frozen=True, slots=True)
class Range:
    """A number from low to high; log: even in its logarithm; whole: an integer."""

    low: float
    high: float
    log: bool = True
    whole: bool = False

    def draw(self, trial: optuna.Trial, name: str) -> Any:
        """What the trial takes."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high))
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    @property
    def first(self) -> Any:
        """A value of it, always the same one."""
        return int(self.low) if self.whole else self.low


Space = Mapping[str, Choice | Range]

_USERS: dict[str, Choice | Range] = {
    "alpha": Range(0.5, 50.0),
    "ridge": Range(1.0, 200.0),
    "confidence": Choice(("log", "linear")),
    "rhs": Choice(("c", "c-1")),
    "half_life_ms": Choice(tuple(days * DAY_MS for days in (0, 7, 30, 90, 365))),
    "recency_entries": Choice((0.0, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0)),
}
_USERS_WIDE: dict[str, Choice | Range] = {
    "session_weight": Choice((0.0, 0.1, 0.3, 0.5)),
    "session_gap_ms": Choice(tuple(minutes * _MINUTE_MS for minutes in (10, 30, 120, 720))),
    "session_entries": Choice((3, 5, 10, 20)),
    "ridge_nu": Choice((0.0, 0.5, 1.0)),
    "ridge_alpha0": Choice((0.0, 0.01, 0.1, 1.0)),
    "unobserved_power": Range(0.0, 1.0, log=False),
}
_DIMENSION = Choice((32, 64, 128))
_NARROW: dict[str, dict[str, Choice | Range]] = {
    "als": {
        **_USERS,
        "dimension": _DIMENSION,
        "iterations": Range(5, 25, whole=True),
        "ridge_items": Range(1.0, 200.0),
    },
    # Its users are solved by the same ridge and confidences; its items know neither, but a rate and ridges of its own.
    "bpr": {
        **_USERS,
        "dimension": _DIMENSION,
        "iterations": Range(5, 60, whole=True),
        "rate": Range(0.005, 0.2),
        "reg_users": Range(0.001, 0.3),
        "reg_items": Range(0.001, 0.3),
        "negative_popularity": Range(0.0, 1.0, log=False),
    },
}
_WIDE = {"als": _USERS_WIDE, "bpr": {**_USERS_WIDE, "rate_decay": Range(0.9, 1.0, log=False)}}
# A ridge that grows with n entries begins as much lower.
_GROWING_LOW = 0.001
_NEEDS = {"session_gap_ms": "session_weight", "session_entries": "session_weight", "ridge_alpha0": "ridge_nu"}

_TRAINING = {"dimension", "iterations", "ridge_items"}
_RANKING = {"rate": "rate", "rate_decay": "decay"} | {
    name: name for name in ("reg_users", "reg_items", "negative_popularity")
}


def space_of(recipe: Recipe, *, wide: bool = False, names: tuple[str, ...] = ()) -> Space:
    """What is varied: the objective's usual keys, all of them if ``wide``, or exactly those named.

    Raises:
        ConfigError: a name is none that this objective is searched by.
    """
    usual, more = _NARROW[recipe.objective], _WIDE[recipe.objective]
    every = usual | more
    for name in names:
        if name not in every:
            near = get_close_matches(name, every, 1)
            hint = f"did you mean {near[0]}?" if near else f"these are: {', '.join(every)}."
            raise ConfigError(f"--keys: {name} is no key that {recipe.algorithm} is searched by; {hint}")
    space = {name: every[name] for name in every if name in names} if names else (every if wide else dict(usual))
    if "ridge_nu" in space or recipe.policy.ridge_nu:
        for name in ("ridge", "ridge_items"):
            if name in space:
                space = {**space, name: Range(_GROWING_LOW, 200.0)}
    return space


def propose(trial: optuna.Trial, recipe: Recipe, space: Space) -> Recipe:
    """The recipe with values of the space."""
    values: dict[str, Any] = {}
    # What others depend on comes first.
    for name in sorted(space, key=lambda name: name in _NEEDS):
        needed = _NEEDS.get(name)
        if needed and not values.get(needed, getattr(recipe.policy, needed)):
            continue
        values[name] = space[name].draw(trial, name)
    return applied(recipe, values)


def applied(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with other values of some keys, as a configuration with these keys would give it."""
    policy = {name: value for name, value in values.items() if _table(name) == "policy"}
    told = msgspec.structs.replace(recipe.policy, **policy)
    training = replace(
        recipe.training,
        ridge=told.ridge,
        rhs=told.rhs,
        ridge_nu=told.ridge_nu,
        ridge_alpha0=told.ridge_alpha0,
        **{name: value for name, value in values.items() if name in _TRAINING},
    )
    ranking = replace(recipe.ranking, **{_RANKING[name]: value for name, value in values.items() if name in _RANKING})
    return replace(recipe, policy=told, training=training, ranking=ranking)


def settings_found(params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A trial's values as the tables of a configuration file."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in params.items():
        found.setdefault(_table(name), {})[name] = value
    return found


def _table(name: str) -> Literal["policy", "bootstrap"]:
    return "bootstrap" if name in _TRAINING or name in _RANKING else "policy"
