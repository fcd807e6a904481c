"""Which generation a worker serves: what is announced is loaded beside it, and then every partition cuts over.

    announced -> loaded and checked -> partitions cut over, each at an offset of its own -> the old one is let go

What can't be loaded is refused with a word, and the old one goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from streamer.engine.group import Group
from streamer.engine.models import ActiveModel, Models
from streamer.errors import BrokerError, DataError, FactorsError
from streamer.serving import Loader, Serving
from streamer.steps.effects import Step
from streamer.steps.horizon import Horizon
from streamer.telemetry.observer import Telemetry

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
_CUT_LOOK_SECONDS = 0.05


class Generations:
    """See the module docstring. `first`, then `follow` for as long as the worker runs, then `stop`."""

    def __init__(
        self, models: Models, loader: Loader, horizon: Horizon, roles: Sequence[str], telemetry: Telemetry
    ) -> None:
        self._models, self._loader, self._horizon = models, loader, horizon
        self._roles, self._telemetry = roles, telemetry
        self._held: list[Serving] = []
        self._refused: set[int] = set()

    async def first(self, active: ActiveModel) -> Serving:
        """Load what is active at the start.

        Raises:
            BrokerError, DataError: it can't be loaded; there is nothing else to serve.
        """
        self._look(active.generation)
        serving = await self._loader.load(active, self._telemetry.loading_items)
        self._serve(serving)
        return serving

    def steps(self, serving: Serving) -> dict[str, Step]:
        """The step of each role."""
        return self._loader.steps(serving, self._roles, self._models.generations())

    async def follow(self, groups: Sequence[Group]) -> None:
        """Go over to whatever is announced, for ever.

        Raises:
            FactorsError: what keeps the item vectors fresh has ended.
        """
        while True:
            await self._let_go(groups)
            active = self._models.now()
            serving = self._held[-1]
            self._look(active.generation if active else serving.generation)
            if active is None or active.generation == serving.generation or active.generation in self._refused:
                await self._wait()
            else:
                await self._go_over(active, groups)

    async def _wait(self) -> None:
        """For a change, or for so long."""
        tasks = {one.task: one.topic for serving in self._held for one in serving.followers if one.task}
        changed = asyncio.ensure_future(self._models.changed())
        patience = _LOOK_SECONDS if len(self._held) == 1 else _CUT_LOOK_SECONDS
        await asyncio.wait({changed, *tasks}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()
        for task, topic in tasks.items():
            if task.done():
                raise FactorsError(f"following {topic} stopped: {task.exception()!r}")

    async def _go_over(self, active: ActiveModel, groups: Sequence[Group]) -> None:
        version, before = active.manifest.model_version, self._held[-1].version
        log.info("generation_announced", model_version=version, serving=before, item_topic=active.item_topic)
        try:
            serving = await self._loader.load(active, before=self._held[-1].active.manifest)
            steps = self.steps(serving)
        except (BrokerError, DataError) as problem:
            self._refused.add(active.generation)
            self._telemetry.refused(version)
            log.error("generation_refused", model_version=version, serving=before, problem=str(problem))
            return
        for group in groups:
            group.assignments.switch(steps[group.role.name])
        self._serve(serving)

    async def _let_go(self, groups: Sequence[Group]) -> None:
        """Of what no partition here serves any more."""
        serving = self._held[-1]
        if len(self._held) > 1 and all(group.assignments.at(serving.generation) for group in groups):
            log.info("generation_served", model_version=serving.version, before=self._held[-2].version)
            while len(self._held) > 1:
                left = self._held.pop(0)
                await left.stop()
                if left.version != serving.version:
                    self._telemetry.left(left.version)

    def _serve(self, serving: Serving) -> None:
        self._held.append(serving)
        log.info("items_loaded", items=serving.items.space.size, model_version=serving.version)
        self._telemetry.model(serving.active.manifest, serving.items, serving.lag)

    def _look(self, coming: int) -> None:
        """Signals of every known generation but the one announced have had their time; so have those of a refused."""
        self._horizon.coming = None if coming in self._refused else coming
        self._horizon.past |= self._models.generations().keys() | self._refused
        if self._horizon.coming is not None:
            self._horizon.past.discard(self._horizon.coming)

    async def stop(self) -> None:
        """Let go of all."""
        for serving in self._held:
            await serving.stop()
