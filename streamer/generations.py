"""Which generation a worker serves: what is announced is loaded beside it, and then every partition cuts over.

    announced -> loaded and checked -> partitions cut over, each at an offset of its own -> the old one is let go

What can't be loaded is refused with a word, and the old one goes on. A second generation may be tried on a share of the
users (a canary): then the partitions of the users serve two at once (`streamer.steps.canary`), and the worker that
holds the first of them says what becomes of it (`streamer.steps.trial`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog
from aiokafka.errors import KafkaError

from streamer.engine.ask import send_commands
from streamer.engine.group import Group
from streamer.engine.models import ActiveModel, Models
from streamer.errors import BrokerError, DataError, FactorsError
from streamer.events.activation import activation, end_of_canary
from streamer.serving import Loader, Serving
from streamer.steps.effects import Step
from streamer.steps.horizon import Horizon
from streamer.steps.trial import Evidence, Verdict, verdict
from streamer.telemetry.observer import Telemetry

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
_CUT_LOOK_SECONDS = 0.05
_RETRY_SECONDS = 5.0


class Generations:
    """See the module docstring. `first`, then `follow` for as long as the worker runs, then `stop`."""

    def __init__(
        self, models: Models, loader: Loader, horizon: Horizon, roles: Sequence[str], telemetry: Telemetry
    ) -> None:
        self._models, self._loader, self._horizon = models, loader, horizon
        self._roles, self._telemetry = roles, telemetry
        self._held: list[Serving] = []
        self._refused: set[int] = set()
        self._served: Serving | None = None
        self._trial: Serving | None = None
        self._at: dict[str, int] = {}
        self._before: dict[str, tuple[int, int]] = {}
        self._decided: set[int] = set()
        self._went_over = asyncio.Event()

    async def first(self, active: ActiveModel) -> Serving:
        """Load what is active at the start, and what is tried beside it.

        What is active may have been refused by the workers that ran then: so it is by this one, and the generation
        before it goes on.

        Raises:
            BrokerError: what is active can't be loaded.
            DataError: neither what is active nor anything before it can be served.
        """
        self._look(active.generation)
        try:
            self._served = await self._load(active)
        except DataError as problem:
            self._refuse(active, problem)
            self._served = await self._fallback(active)
            if self._served is None:
                raise
            self._look(active.generation)
        self._trial = await self._loaded(self._models.trial())
        self._tell(None)
        return self._served

    async def _fallback(self, refused: ActiveModel) -> Serving | None:
        for model in self._models.before(refused, self._loader.settings.topic("item-factors")):
            if (found := await self._loaded(model)) is not None:
                return found
        return None

    async def newest(self) -> None:
        """Return when what is announced by now is served here, or refused."""
        await self._models.to_end()
        while not self._up_to_date():
            await self._went_over.wait()

    def steps(self) -> dict[str, Step]:
        """The step of each role, of what is served now."""
        assert self._served is not None
        since = self._served.active.at
        known, tried = self._models.generations(), self._models.tried_since(since)
        steps = self._loader.steps(self._served, self._trial, self._roles, known, tried)
        self._at = {role: step.generation for role, step in steps.items()}
        return steps

    async def follow(self, groups: Sequence[Group]) -> None:
        """Go over to whatever is announced, for ever.

        Raises:
            FactorsError: what keeps the item vectors fresh has ended.
        """
        assert self._served is not None
        while True:
            await self._let_go(groups)
            announced = self._models.now() or self._served.active
            self._look(announced.generation)
            active, trial = self._announced()
            if self._up_to_date():
                await self._judge(groups)
                await self._wait()
            else:
                await self._go_over(active, trial, groups)
                self._went_over.set()
                self._went_over = asyncio.Event()
                if not self._up_to_date():
                    await asyncio.sleep(_RETRY_SECONDS)

    def _announced(self) -> tuple[ActiveModel, ActiveModel | None]:
        """What is to be served, and what is to be tried beside it: what was refused is neither."""
        assert self._served is not None
        active, trial = self._models.now(), self._models.trial()
        if active is None or active.generation in self._refused:
            active = self._served.active
        return active, None if trial is None or trial.generation in self._refused else trial

    def _up_to_date(self) -> bool:
        active, trial = self._announced()
        assert self._served is not None
        tried, wanted = (None if one is None else one.generation for one in (self._trial, trial))
        return (active.generation, wanted) == (self._served.generation, tried)

    async def _wait(self) -> None:
        """For a change, or for so long."""
        tasks = {one.task: one.topic for serving in self._held for one in serving.followers if one.task}
        changed = asyncio.ensure_future(self._models.changed())
        patience = _CUT_LOOK_SECONDS if self._left() else _LOOK_SECONDS
        await asyncio.wait({changed, *tasks}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()
        for task, topic in tasks.items():
            if task.done():
                raise FactorsError(f"following {topic} stopped: {task.exception()!r}")

    async def _go_over(self, active: ActiveModel, trial: ActiveModel | None, groups: Sequence[Group]) -> None:
        before, tried = self._served, self._trial
        log.info(
            "generation_announced",
            model_version=active.manifest.model_version,
            tried=trial.manifest.model_version if trial else None,
            serving=before.version if before else None,
        )
        serving = await self._loaded(active)
        if serving is None:
            return
        self._served, self._trial = serving, await self._loaded(trial)
        if self._served is before and self._trial is tried:
            return
        at, steps = self._at, self.steps()
        for group in groups:
            role = group.role.name
            if steps[role].generation != at[role]:
                group.assignments.switch(steps[role])
        self._tell(before)

    async def _loaded(self, model: ActiveModel | None) -> Serving | None:
        """What is held already, or loaded now; None, with a word, for what can't be served, or not yet."""
        if model is None:
            return None
        for serving in self._held:
            if serving.generation == model.generation:
                return serving
        try:
            return await self._load(model)
        except BrokerError as problem:
            log.warning("generation_not_loaded", model_version=model.manifest.model_version, problem=str(problem))
            return None
        except DataError as problem:
            self._refuse(model, problem)
            return None

    def _refuse(self, model: ActiveModel, problem: Exception) -> None:
        version = model.manifest.model_version
        self._refused.add(model.generation)
        self._telemetry.refused(version)
        log.error("generation_refused", model_version=version, problem=str(problem))

    async def _load(self, model: ActiveModel) -> Serving:
        report = self._telemetry.loading_items if not self._held else lambda share: None
        before = None if self._served is None else self._served.active.manifest
        serving = await self._loader.load(model, report, before=before)
        self._held.append(serving)
        log.info("items_loaded", items=serving.items.space.size, model_version=serving.version)
        return serving

    def _tell(self, before: Serving | None) -> None:
        """Have metrics and health say what is served by now."""
        serving, trial = self._served, self._trial
        assert serving is not None
        if before is not serving:
            self._telemetry.model(serving.active.manifest, serving.items, serving.lag)
        if trial is None:
            self._telemetry.tries(serving.version, None, None, 0.0)
        else:
            self._telemetry.tries(serving.version, trial.active.manifest, trial.items, trial.active.fraction)
        self._before = self._telemetry.judged()

    # --- what nobody serves any more ----------------------------------------------------------------------------

    def _left(self) -> list[Serving]:
        return [one for one in self._held if one is not self._served and one is not self._trial]

    async def _let_go(self, groups: Sequence[Group]) -> None:
        """Of what no partition here serves any more."""
        left = self._left()
        if not left or not all(group.assignments.at(self._at[group.role.name]) for group in groups):
            return
        assert self._served is not None
        log.info("generation_served", model_version=self._served.version, left=[one.version for one in left])
        self._held = [one for one in self._held if one not in left]
        for serving in left:
            await serving.stop()
            if serving.version not in {one.version for one in self._held}:
                self._telemetry.left(serving.version)

    def _look(self, coming: int) -> None:
        """Signals of every known generation but the one announced have had their time; so have those of a refused."""
        self._horizon.coming = None if coming in self._refused else coming
        self._horizon.past |= self._models.generations().keys() | self._refused
        if self._horizon.coming is not None:
            self._horizon.past.discard(self._horizon.coming)

    # --- the verdict on what is tried ---------------------------------------------------------------------------

    async def _judge(self, groups: Sequence[Group]) -> None:
        """Once there is enough to go by, have everybody or nobody served with what is tried."""
        trial, serving, bounds = self._trial, self._served, self._loader.settings.canary
        if trial is None or serving is None or not bounds.auto or trial.generation in self._decided:
            return
        if not any(group.role.name == "users" and group.assignments.holds(0) for group in groups):
            return
        if self._telemetry.quality is None or trial.active.manifest.policy.feedback != "implicit":
            self._decided.add(trial.generation)
            log.warning(
                "canary_without_judge",
                model_version=trial.version,
                hint="ratings, or quality.sample = 0: end it by `models activate` or `models canary --end`",
            )
            return
        found = verdict(
            self._evidence(serving.version),
            self._evidence(trial.version),
            min_events=bounds.min_events,
            margin=bounds.margin,
            max_norm_ratio=bounds.max_norm_ratio,
        )
        if found is None:
            return
        log.warning(
            "canary_judged",
            verdict=str(found),
            model_version=trial.version,
            recall=self._evidence(trial.version).recall,
            served_recall=self._evidence(serving.version).recall,
        )
        await self._announce(found, trial)

    def _evidence(self, version: str) -> Evidence:
        """What was judged of a generation since the trial began."""
        judged, hits = self._telemetry.judged().get(version, (0, 0))
        judged_before, hits_before = self._before.get(version, (0, 0))
        return Evidence(judged - judged_before, hits - hits_before, self._telemetry.judged_norm(version))

    async def _announce(self, found: Verdict, trial: Serving) -> None:
        """Say so in the control topic; where that fails, at the next look again."""
        topic, at = self._loader.settings.topic, time.time_ns() // 1_000_000
        records = end_of_canary()
        if found is Verdict.PROMOTE:
            common = topic("item-factors")
            records = activation(trial.version, at, trial.active.item_topic, common) + records
        try:
            await send_commands(topic("control"), records, self._loader.client)
        except (KafkaError, TimeoutError) as problem:
            log.warning("verdict_not_sent", verdict=str(found), problem=str(problem) or repr(problem))
        else:
            self._decided.add(trial.generation)

    async def stop(self) -> None:
        """Let go of all."""
        for serving in self._held:
            await serving.stop()
