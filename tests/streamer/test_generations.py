"""Which generations a worker holds on to, and whose signals it waits for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from schemas.records import Policy
from streamer.engine.models import ActiveModel
from streamer.errors import DataError
from streamer.generations import Generations
from streamer.serving import Serving
from streamer.steps.horizon import Horizon
from tests.streamer.steps.world import manifest


class _Loader:
    """Refuses every model."""

    async def load(self, *_: Any, **__: Any) -> Serving:
        raise DataError("no good")


class _Follower:
    stopped = False

    async def stop(self) -> None:
        self.stopped = True


def active(version: str, number: int) -> ActiveModel:
    return ActiveModel(manifest(Policy(), model_version=version), "t.items", number, 0)


def serving(version: str, number: int) -> tuple[Serving, _Follower]:
    """A generation that is held, and whether it is still followed."""
    items, follower = SimpleNamespace(), _Follower()
    followers: Any = [follower]
    made: Any = items
    return Serving(active(version, number), founding=False, items=made, followers=followers), follower


def generations(known: dict[int, Any], horizon: Horizon) -> Generations:
    """Of a worker of the users that knows the manifests of ``known``."""
    models: Any = SimpleNamespace(generations=lambda: known)
    telemetry: Any = SimpleNamespace(refused=print, left=print, loading_items=print)
    loader: Any = _Loader()
    return Generations(models, loader, horizon, ["users"], telemetry)


async def test_signals_of_a_refused_model_are_waited_for_no_more() -> None:
    """Other workers may have served it for a moment. Also where its manifest has been deleted since."""
    known, horizon = dict[int, Any](), Horizon()
    known[7] = "m7"
    held = generations(known, horizon)
    held._look(7)
    assert (horizon.coming, horizon.beyond({7})) == (7, True)
    assert await held._loaded(active("m7", 7)) is None
    for _ in range(2):
        horizon.past.clear()
        held._look(7)
        assert (horizon.coming, horizon.beyond({7})) == (None, False)
        known.clear()


async def test_a_generation_is_held_until_the_slowest_partition_has_left_it() -> None:
    """Two groups of two partitions cut over one after the other: nothing that one of them still serves is stopped."""
    (new, kept), (old, followed) = serving("m2", 2), serving("m1", 1)
    at = {("users", 0): 1, ("users", 1): 1, ("items", 0): 1, ("items", 1): 1}

    def group(role: str) -> Any:
        def all_at(number: int) -> bool:
            return all(one == number for (name, _), one in at.items() if name == role)

        return SimpleNamespace(role=SimpleNamespace(name=role), assignments=SimpleNamespace(at=all_at))

    held = generations({}, Horizon())
    held._served, held._held, held._at = new, [old, new], {"users": 2, "items": 2}
    groups = [group("users"), group("items")]
    for slow in list(at):
        await held._let_go(groups)
        assert (followed.stopped, held._held) == (False, [old, new])
        at[slow] = 2
    await held._let_go(groups)
    assert (followed.stopped, kept.stopped, held._held) == (True, False, [new])
