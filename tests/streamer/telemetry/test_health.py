"""Ready is true only when events are processed, and says why it is not."""

import pytest

from streamer.telemetry.health import Health


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_from_start_to_ready() -> None:
    """Each obstacle in its turn, with the percentage of what is restored."""
    health = Health(["users"], _Clock())
    assert (health.ready().good, health.ready().reason) == (False, "starting")
    health.wait("loading item vectors", 40.0)
    assert health.ready().percent == 40.0
    health.model("m1")
    assert "users: waiting for partitions" in health.ready().reason
    health.partition("users", 0, "fencing")
    health.partition("users", 1, "restoring", 0.5)
    verdict = health.ready()
    assert verdict.reason == "of 2 partitions: 1 fencing, 1 restoring"
    assert verdict.percent == 25.0
    health.partition("users", 0, "ready")
    health.partition("users", 1, "ready")
    assert health.ready().good
    assert health.ready().percent == 100.0
    assert health.restored() == 1.0


def test_a_role_without_partitions_holds_back() -> None:
    """Both roles of a worker must have been assigned something once."""
    health = Health(["users", "items"], _Clock())
    health.model("m1")
    health.partition("users", 0, "ready")
    assert "items" in health.ready().reason


def test_released_partitions_do_not_count() -> None:
    """After a rebalance only what is held counts, even if that is nothing."""
    health = Health(["users"], _Clock())
    health.model("m1")
    health.partition("users", 0, "restoring", 0.1)
    health.partition("users", 1, "ready")
    health.partition("users", 0, "released")
    assert health.ready().good
    health.partition("users", 1, "released")
    assert health.ready().good


def test_a_paused_partition_is_not_ready() -> None:
    """A store that cannot be written stops a partition, and that shows."""
    health = Health(["users"], _Clock())
    health.model("m1")
    health.partition("users", 0, "paused")
    assert health.ready().reason == "of 1 partitions: 1 paused"


def test_live_follows_the_loop() -> None:
    """Ten silent seconds are too many."""
    clock = _Clock()
    health = Health(["users"], clock)
    clock.now += 9
    assert health.live().good
    clock.now += 2
    assert "11 s" in health.live().reason
    health.tick()
    assert health.live().good


def test_unknown_states_are_refused() -> None:
    """A state that nobody can read must not come in unseen."""
    with pytest.raises(ValueError, match="no state"):
        Health(["users"]).partition("users", 0, "reddy")


def test_describe_has_every_partition() -> None:
    """What `/info` shows."""
    health = Health(["users"], _Clock())
    health.partition("users", 1, "restoring", 0.25)
    health.partition("users", 0, "ready")
    assert health.describe() == {
        "roles": ["users"],
        "model_version": None,
        "refused_models": [],
        "partitions": {"users": {"0": {"state": "ready"}, "1": {"state": "restoring", "percent": 25.0}}},
    }
