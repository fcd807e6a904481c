"""What a loader refuses before it reads anything."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from schemas.records import Policy
from streamer.engine.lanes import Lanes
from streamer.engine.models import ActiveModel
from streamer.errors import DataError
from streamer.serving import Loader
from streamer.settings import load_settings
from streamer.steps.horizon import Horizon
from tests.streamer.steps.world import manifest


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
