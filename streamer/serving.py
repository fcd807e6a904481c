"""A generation ready to be served: its item vectors, kept up to date, and the step that each role makes of them.

    manifest -> its own topic, as it was trained -> checked -> item-factors, as the stream moved it -> steps

Several can be held beside each other; what is loaded changes nothing until the partitions cut over to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from schemas.layouts import RowShape
from schemas.records import INT64_MAX, Manifest
from streamer.engine.follow import Follower
from streamer.engine.lanes import Lane
from streamer.engine.models import ActiveModel
from streamer.engine.replica import ItemReplica
from streamer.errors import BrokerError, DataError
from streamer.events.read import Reader
from streamer.factors.frozen import FrozenItems
from streamer.factors.ridge import ridge_in
from streamer.settings import Settings
from streamer.steps.canary import CanaryStep
from streamer.steps.effects import Step
from streamer.steps.horizon import Horizon
from streamer.steps.item import ItemStep, ItemTopics
from streamer.steps.items import Items
from streamer.steps.user import UserStep, UserTopics
from streamer.telemetry.pace import Pace

_AUDITS_A_SECOND = 4.0  # published vectors compared with an exact solve: 0.1 ms each


@dataclass(slots=True)
class Serving:
    """See the module docstring; ``founding``: was it published straight into the topics that are served?"""

    active: ActiveModel
    founding: bool
    items: Items
    followers: list[Follower]

    @property
    def version(self) -> str:
        """The model version."""
        return self.active.manifest.model_version

    @property
    def generation(self) -> int:
        """What rows and signals are stamped with."""
        return self.active.generation

    def lag(self) -> int:
        """Records of item-factors that are not in the items yet."""
        return self.followers[0].lag

    async def stop(self) -> None:
        """Follow no more."""
        for follower in self.followers:
            await follower.stop()


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads generations and makes their steps; partitions: by short topic name; judged: keep what was trained, too."""

    settings: Settings
    client: Mapping[str, Any]
    maths: Lane
    partitions: Mapping[str, int]
    horizon: Horizon
    judged: bool = False

    async def load(
        self,
        active: ActiveModel,
        progress: Callable[[float], None] = lambda _: None,
        *,
        before: Manifest | None = None,
    ) -> Serving:
        """Read the item vectors of a generation, and follow them; ``before``: what is served, if anything is.

        Raises:
            BrokerError: its topic does not exist.
            DataError: it is not what its manifest says: missing, of another dimension or checksum, or not finite; or it
                is of other feedback than what is served, whose histories it would have to read.
        """
        manifest, common = active.manifest, self.settings.topic("item-factors")
        if before is not None and before.policy.feedback != manifest.policy.feedback:
            raise DataError(
                f"{manifest.model_version} is of {manifest.policy.feedback} feedback and {before.model_version}, which "
                f"is served, of {before.policy.feedback}: the kept histories mean something else"
            )
        founding = active.item_topic == common
        items = self._items_of(manifest)
        replica = ItemReplica(items, manifest.model_version)
        followers = [
            Follower(common, self.client, replica.factors, self.maths),
            Follower(self.settings.topic("items"), self.client, replica.catalogue, self.maths),
        ]
        serving = Serving(active, founding, items, followers)
        try:
            if not founding:
                await self._base(active, replica, items, progress)
                if self.judged:
                    items.trained = await self.maths.run(lambda: FrozenItems(items.space, items.space.ids))
            for follower in followers:
                await follower.start(progress)
            if not items.space.size or (founding and replica.refused):
                raise DataError(
                    f"{active.item_topic} holds no good item vectors of the active model {manifest.model_version} "
                    f"({replica.refused} were refused); publish it again with `python -m bootstrap publish`"
                )
            await self.maths.run(items.settle)
            if founding and self.judged:
                await self._trained(active, items)
        except LookupError as problem:
            await serving.stop()
            raise BrokerError(f"the topic {problem} of the active model does not exist") from problem
        except BaseException:
            await serving.stop()
            raise
        return serving

    async def _base(
        self, active: ActiveModel, replica: ItemReplica, items: Items, progress: Callable[[float], None]
    ) -> None:
        """The generation as it was trained: read once, and held against what its manifest says of it."""
        base = Follower(active.item_topic, self.client, replica.base, self.maths)
        try:
            await base.start(progress)
        finally:
            await base.stop()
        manifest = active.manifest
        problem = ""
        if replica.refused:
            problem = (
                f"{replica.refused} of its item vectors were refused: a dimension other than {manifest.dimension}, "
                "or a number that is not finite"
            )
        elif not items.space.size:
            problem = "its topic holds no item vector"
        elif manifest.items_sha256 is not None and await self.maths.run(items.sha256) != manifest.items_sha256:
            problem = "its item vectors do not have the checksum in its manifest"
        if problem:
            raise DataError(
                f"{manifest.model_version} in {active.item_topic} can't be served: {problem}; "
                "publish it again under a new version with `python -m bootstrap run`"
            )

    async def _trained(self, active: ActiveModel, items: Items) -> None:
        """Give a first generation its trained vectors: the served ones, while they have its checksum, or its own topic.

        A worker that starts later reads moved ones from the common topic, which is compacted. Without either, and
        without a checksum to know them by, it goes without.
        """
        manifest = active.manifest

        def keep(found: Items) -> None:
            if found.sha256() == manifest.items_sha256:
                items.trained = FrozenItems(found.space, items.space.ids)

        await self.maths.run(lambda: keep(items))
        if items.trained is not None:
            return
        own = self._items_of(manifest)
        replica = ItemReplica(own, manifest.model_version)
        follower = Follower(f"{active.item_topic}.{manifest.model_version}", self.client, replica.base, self.maths)
        with suppress(LookupError):
            try:
                await follower.start()
            finally:
                await follower.stop()
            await self.maths.run(lambda: keep(own))

    def _items_of(self, manifest: Manifest) -> Items:
        return Items(
            dimension=manifest.width,
            ridge=ridge_in(manifest),
            item_key=bytes.fromhex(manifest.item_key),
            partitions=self.partitions["item-factors"],
        )

    def steps(
        self,
        serving: Serving,
        trial: Serving | None,
        roles: Sequence[str],
        known: Mapping[int, Manifest],
        tried: Mapping[int, int],
    ) -> dict[str, Step]:
        """The step of each role.

        ``known``: the manifest of every generation whose rows may be met; ``tried``: the generations that were tried on
        some users since this one is served, and since when (ms): until then its items heard of those users.
        """
        make: dict[str, Callable[[], Step]] = {
            "users": lambda: self._users(serving, trial, known, tried),
            "items": lambda: self._item_step(serving),
        }
        return {role: make[role]() for role in roles}

    def _users(
        self, serving: Serving, trial: Serving | None, known: Mapping[int, Manifest], tried: Mapping[int, int]
    ) -> Step:
        step = self._user_step(serving, known, tried)
        if trial is None:
            return step
        # The items of what is tried stand still: they hear of its users when it serves everybody.
        nobody = {serving.generation: INT64_MAX}
        return CanaryStep(step, self._user_step(trial, known, nobody), trial.active.fraction)

    def _user_step(self, serving: Serving, known: Mapping[int, Manifest], told: Mapping[int, int]) -> UserStep:
        settings, topic, manifest = self.settings, self.settings.topic, serving.active.manifest
        epochs = self.partitions["item-factors"]
        return UserStep(
            manifest,
            serving.items,
            UserTopics(
                topic("interactions"),
                topic("user-factors"),
                topic("item-signals"),
                topic("dead-letters"),
                self.partitions["interactions"],
            ),
            Reader(
                manifest.policy,
                tenant=settings.events.tenant,
                max_bytes=settings.events.max_bytes,
                invalid_items=serving.items.invalid,
            ),
            solver=settings.engine.solver,
            tolerance=settings.engine.tolerance,
            encoding=settings.factors.encoding,
            source=f"{settings.engine.app_id}-users",
            sample=settings.quality.sample,
            audit=Pace(_AUDITS_A_SECOND),
            generation=serving.generation,
            founding=serving.founding,
            shapes={number: _shape(manifest, epochs) for number, manifest in known.items()},
            told=told,
        )

    def _item_step(self, serving: Serving) -> ItemStep:
        return ItemStep(
            serving.active.manifest,
            serving.items,
            ItemTopics(self.settings.topic("item-signals"), self.settings.topic("item-factors")),
            encoding=self.settings.factors.encoding,
            source=f"{self.settings.engine.app_id}-items",
            generation=serving.generation,
            founding=serving.founding,
            horizon=self.horizon,
        )


def _shape(manifest: Manifest, epochs: int) -> RowShape:
    policy = manifest.policy
    return RowShape(manifest.width, policy.history_capacity, policy.keys_capacity, epochs)
