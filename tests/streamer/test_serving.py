"""What a loader refuses before it reads anything, and what the steps that it makes tell whom."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from schemas.layouts import decode_signals
from schemas.records import Policy
from streamer.engine.lanes import Lanes
from streamer.engine.models import ActiveModel
from streamer.errors import DataError
from streamer.serving import Loader, Serving
from streamer.settings import load_settings
from streamer.steps.canary import CanaryStep
from streamer.steps.effects import Effects, Step
from streamer.steps.horizon import Horizon
from tests.streamer.steps.world import NOW, decoded, event, items, manifest, record

POLICY = Policy(history_capacity=8, keys_capacity=8)
SERVED, TRIED = 101, 202


def test_another_feedback_than_what_is_served_is_refused() -> None:
    """The kept histories mean something else; no client is asked for anything."""
    served = manifest(Policy(), model_version="m1")
    rated = msgspec.structs.replace(
        manifest(Policy(), model_version="m2"), policy=Policy(feedback="explicit"), global_mean=3.0, average_bias=0.0
    )
    lanes = Lanes(1)
    try:
        loader = Loader(load_settings(None, {}), {}, lanes.maths, {"item-factors": 2}, Horizon())
        for before, after in ((served, rated), (rated, served)):
            with pytest.raises(DataError, match=f"{before.model_version}, which is served, of"):
                asyncio.run(loader.load(ActiveModel(after, "t", 1, 0), before=before))
    finally:
        lanes.close()


def serving(version: str, number: int, fraction: float = 1.0) -> Serving:
    """A generation whose items are there; nothing follows them."""
    made = manifest(POLICY, model_version=version)
    return Serving(ActiveModel(made, "t", number, 0, fraction), founding=False, items=items(POLICY), followers=[])


def users_step(served: Serving, trial: Serving | None, tried: dict[int, int]) -> Step:
    partitions = {"interactions": 1, "item-factors": 2}
    nobody: Any = None
    loader = Loader(load_settings(None, {}), {}, nobody, partitions, Horizon())
    known = dict.fromkeys((SERVED, TRIED), served.active.manifest)
    return loader.steps(served, trial, ["users"], known, tried)["users"]


def row_of(step: Step) -> bytes:
    """Ann's, of four clicks a second apart."""
    bodies = [event(request_id=f"r{n}", item_id=f"i{n}", timestamp=NOW + 1000 * n) for n in range(4)]
    batch = step.read([record(at, body) for at, body in enumerate(bodies)], 0)
    [(_, row)] = decoded(step.apply(batch, [None])).rows
    return bytes(row)


def heard(effects: Effects) -> list[int]:
    """The event times (ms) that items are told of."""
    sent = [
        value or b"" for (topic, _), ones in effects.sends.items() if "item-signals" in topic for _, value, *_ in ones
    ]
    return sorted(decode_signals(sent, dimension=8)["event_time"].tolist())


def test_an_abandoned_trial_tells_its_items_of_its_users_events() -> None:
    """Those since it began; what came before, the items of the served generation have heard already."""
    served, trial = serving("m1", SERVED), serving("m2", TRIED)
    row = row_of(users_step(trial, None, {}))
    back = users_step(served, None, {TRIED: NOW + 1500})
    assert back.stale(b"ann", row)
    assert heard(back.renew([b"ann"], [row], 0)) == [NOW + 2000, NOW + 3000]
    # One that was not tried beside it is a generation before: everything that the training did not hold.
    assert heard(users_step(served, None, {}).renew([b"ann"], [row], 0)) == [NOW + 1000 * n for n in range(4)]


def test_the_items_of_a_trial_hear_nothing_of_those_who_come_in() -> None:
    """They stand still until it serves everybody."""
    row = row_of(users_step(serving("m1", SERVED), None, {}))
    both = users_step(serving("m1", SERVED), serving("m2", TRIED, 1.0), {TRIED: NOW})
    assert isinstance(both, CanaryStep)
    assert both.stale(b"ann", row)
    effects = both.renew([b"ann"], [row], 0)
    assert effects.rows
    assert heard(effects) == []
