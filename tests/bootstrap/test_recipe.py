"""Every key of [bootstrap] and [policy] reaches the training: none is dropped on the way from the settings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from bootstrap.als import Training
from bootstrap.bpr import Ranking
from bootstrap.descent import Descent
from bootstrap.explicit import Ridges
from bootstrap.fit import Recipe
from bootstrap.job import recipe
from schemas.records import Policy
from streamer.settings import Bootstrap, load_settings

if TYPE_CHECKING:
    from pathlib import Path

BOOTSTRAP: dict[str, Any] = {
    "objective": "bpr",
    "dimension": 9,
    "iterations": 4,
    "seed": 11,
    "train_fraction": 0.6,
    "recall_k": 7,
    "solver": "cholesky",
    "steps": 5,
    "ridge_items": 1.5,
    "patience": 0.25,
    "ridge_item_bias": 2.5,
    "rate": 0.03,
    "rate_decay": 0.9,
    "reg_users": 0.04,
    "reg_items": 0.05,
    "reg_biases": 0.06,
    "reg_seen": 0.07,
    "time_bins": 3,
    "negative_popularity": 0.5,
    "threads": 2,
    "spark_master": "local[3]",
    "content": True,
    "content_ridge": 8.5,
    "segment_by": "device",
    "windows": 13,
    "segment_users": 17,
    "artifacts": "elsewhere",
}
POLICY: dict[str, Any] = {
    "weights_version": "2",
    "weights": dict.fromkeys(Policy().weights, 2.0),
    "feedback": "explicit",
    "half_life_ms": 1_000,
    "confidence": "linear",
    "alpha": 3.5,
    "recency_entries": 4.5,
    "ridge": 6.5,
    "ridge_bias": 7.5,
    "rating_half_life_ms": 2_000,
    "rhs": "c-1",
    "history_capacity": 33,
    "keys_capacity": 34,
    "keys_window_ms": 864_000_000,
    "lateness_ms": 3_000,
    "future_ms": 4_000,
    "window_ms": 5_000_000,
    "cap_item_strength": 9.5,
    "cap_user_events_per_day": 35,
    "norm_cap": 36.0,
    "sgd_rate": 0.2,
    "sgd_reg": 0.3,
    "sgd_clip": 2.0,
    "sgd_objective": "bpr",
    "sgd_step": "adagrad",
    "sgd_pull": 0.4,
    "sgd_budget": 37,
    "sgd_balance": 0.5,
    "new_item_users": 4,
    "new_items_cap": 38,
    "suppress_capacity": 39,
    "session_weight": 0.6,
    "session_gap_ms": 6_000,
    "session_entries": 5,
    "blend_events": 6,
    "segment_key": "country",
    "ridge_nu": 0.7,
    "ridge_alpha0": 0.8,
    "unobserved_power": 0.9,
}
IMPLICIT = {"feedback"}
"""What is left as it is where ratings are not what is trained on."""
# A policy of ratings refuses what a ranking alone follows.
EXPLICIT = {
    "sgd_objective", "sgd_step", "sgd_pull", "sgd_budget", "sgd_balance", "session_weight", "blend_events",
    "segment_key", "ridge_nu", "unobserved_power",
}  # fmt: skip


def read(folder: Path, bootstrap: dict[str, Any], policy: dict[str, Any]) -> Recipe:
    """The recipe of a configuration file with these keys."""
    lines = []
    for name, section in {"bootstrap": bootstrap, "policy": policy}.items():
        lines.append(f"[{name}]")
        for key, value in section.items():
            table = ", ".join(f"{one} = {number}" for one, number in value.items()) if isinstance(value, dict) else ""
            lines.append(f"{key} = {{{table}}}" if table else f"{key} = {json.dumps(value)}")
    (folder / "factors.toml").write_text("\n".join(lines), "utf-8")
    return recipe(load_settings(folder / "factors.toml", {}))


def test_the_values_above_are_of_every_key_and_none_is_the_default() -> None:
    """Else a key that is dropped would not be missed."""
    assert set(BOOTSTRAP) == set(Bootstrap.model_fields)
    assert set(POLICY) == set(Policy.__struct_fields__)
    for made, values in ((Bootstrap(), BOOTSTRAP), (Policy(), POLICY)):
        assert [key for key, value in values.items() if getattr(made, key) == value] == []


@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_every_field_of_the_recipe_is_of_the_settings(feedback: str, tmp_path: Path) -> None:
    """Each by its value; `segment_by` and `artifacts` are of the evaluation and of the folder."""
    rating = feedback == "explicit"
    policy = {key: value for key, value in POLICY.items() if key not in (EXPLICIT if rating else IMPLICIT)}
    bootstrap = {**BOOTSTRAP, "objective": "sgd", "content": False} if rating else BOOTSTRAP
    made = Policy(**policy)
    found = read(tmp_path, bootstrap, policy)
    assert found.policy == made
    assert found == Recipe(
        training=Training(
            dimension=9,
            iterations=4,
            seed=11,
            ridge=6.5,
            rhs="c-1",
            steps=5,
            solver="cholesky",
            patience=0.25,
            threads=2,
            ridge_items=1.5,
            ridge_nu=made.ridge_nu,
            ridge_alpha0=made.ridge_alpha0,
        ),
        policy=made,
        tolerance=found.tolerance,
        k=7,
        train_fraction=0.6,
        content=not rating,
        content_ridge=8.5,
        windows=13,
        spark_master="local[3]",
        segment_users=17,
        objective=cast("Any", bootstrap["objective"]),
        ridges=Ridges(6.5, 1.5, 7.5, 2.5),
        descent=Descent(0.03, 0.9, 0.04, 0.05, 0.06, 0.07, 3),
        ranking=Ranking(0.03, 0.9, 0.04, 0.05, 0.5),
    )


def test_the_solvers_tolerance_is_the_workers(tmp_path: Path) -> None:
    """Users of the batch job are solved as closely as they are."""
    (tmp_path / "factors.toml").write_text("[engine]\ntolerance = 1e-4\n", "utf-8")
    assert recipe(load_settings(tmp_path / "factors.toml", {})).tolerance == 1e-4
