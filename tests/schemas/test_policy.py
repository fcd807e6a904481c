"""A policy refuses, however it is made, what no policy may be."""

import math
from typing import Any

import msgspec
import pytest

from schemas.records import Manifest, Policy
from tests.schemas.files import golden

TYPES = "view, click, like, cart, watch_complete, purchase"


def test_defaults_are_the_contracts() -> None:
    """Weights and bounds that the contract states."""
    policy = Policy()
    assert policy.weights == {
        "view": 0.5,
        "click": 1,
        "like": 2,
        "cart": 3,
        "watch_complete": 4,
        "purchase": 5,
    }
    assert policy.window_ms == 90 * 24 * 3600 * 1000
    assert Policy().weights is not policy.weights


@pytest.mark.parametrize(
    ("values", "mistakes"),
    [
        ({"ridge": 0}, ["policy.ridge: must be a finite number > 0, got 0"]),
        ({"ridge": math.inf}, ["policy.ridge: must be a finite number > 0, got inf"]),
        ({"alpha": math.nan}, ["policy.alpha: must be a finite number >= 0, got nan"]),
        ({"ridge": "10"}, ["policy.ridge: must be a finite number > 0, got '10'"]),
        (
            {"feedback": "explicit", "sgd_step": "adagrad", "segment_key": "app"},
            [
                "policy.sgd_step: must be constant where policy.feedback is explicit, got 'adagrad'",
                "policy.segment_key: must be '' where policy.feedback is explicit, got 'app'",
            ],
        ),
        ({"rhs": "c+1"}, ["policy.rhs: must be one of c, c-1, got 'c+1'"]),
        ({"confidence": None}, ["policy.confidence: must be one of log, linear, raw, got None"]),
        (
            {"history_capacity": 0},
            ["policy.history_capacity: must be a whole number >= 1 and <= 65535, got 0"],
        ),
        (
            {"keys_capacity": 1.5},
            ["policy.keys_capacity: must be a whole number >= 1 and <= 65535, got 1.5"],
        ),
        (
            {"lateness_ms": -1},
            ["policy.lateness_ms: must be a whole number >= 0 and <= 3155760000000, got -1"],
        ),
        (
            {"weights_version": ""},
            ["policy.weights_version: must be text of length >= 1 and of length <= 64, got ''"],
        ),
        (
            {"weights": Policy().weights | {"clik": 1}},
            [f"policy.weights.clik: must be one of {TYPES}, got 'clik'"],
        ),
        (
            {"weights": Policy().weights | {"view": 0}},
            ["policy.weights.view: must be a finite number > 0, got 0"],
        ),
        (
            {"weights": {"view": 1, "like": 1, "cart": 1, "purchase": 1}},
            [f"policy.weights: must name every one of {TYPES}, lacks click, watch_complete"],
        ),
        (
            {"weights": 3},
            [f"policy.weights: must be a table of {TYPES}, got 3"],
        ),
        (
            {"norm_cap": -1.0, "sgd_rate": -1.0},
            [
                "policy.norm_cap: must be a finite number > 0, got -1.0",
                "policy.sgd_rate: must be a finite number >= 0, got -1.0",
            ],
        ),
    ],
)
def test_mistakes_are_all_named(values: dict[str, Any], mistakes: list[str]) -> None:
    """Each with field, what is allowed, and value."""
    with pytest.raises(ValueError) as caught:
        Policy(**values)
    assert str(caught.value).split("; ") == mistakes


def test_the_edges_are_allowed() -> None:
    """Zero switches decay, caps and learning off; integers do for floats."""
    Policy(half_life_ms=0, alpha=0, sgd_rate=0, sgd_reg=0, cap_item_strength=0, lateness_ms=0, ridge=1)
    Policy(history_capacity=65_535, cap_user_events_per_day=2**32 - 1)


def test_a_decoded_policy_is_checked_too() -> None:
    """What the bounds of single fields cannot say is a validation error with its path."""
    with pytest.raises(msgspec.ValidationError, match="lacks view"):
        msgspec.json.decode(b'{"weights": {"click": 1}}', type=Policy)


def test_a_manifests_vectors_have_its_dimension() -> None:
    """Average user and segments live in the space of the manifest."""
    manifest = msgspec.json.decode(golden("manifest.v1.json")[0].read_bytes(), type=Manifest)
    with pytest.raises(ValueError, match="average_user: has 1 numbers where dimension is 2"):
        msgspec.structs.replace(manifest, average_user=[0.0])
    with pytest.raises(ValueError, match=r"segments\.new: has 3 numbers"):
        msgspec.structs.replace(manifest, segments={"new": [0.0, 0.0, 0.0]})
