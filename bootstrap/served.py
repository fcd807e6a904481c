"""What the topics serve already, and whether one more generation may join it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from bootstrap.broker import administration, read_to_end, require_topics, speaking
from bootstrap.gates import key_of
from schemas.commands import ACTIVE_KEY
from schemas.records import Control, Manifest
from streamer.errors import BrokerError, CheckFailed

if TYPE_CHECKING:
    from streamer.settings import Settings

_GROUPS = (
    ("interactions", "user-factors", "user-state"),
    ("item-signals", "item-factors", "item-state"),
    ("models",),
    ("control",),
)


@dataclass(frozen=True, slots=True)
class Served:
    """What the topics say: the announced versions, and the one that is active (None: none is)."""

    manifests: dict[str, Manifest]
    active: Control | None

    @property
    def manifest(self) -> Manifest | None:
        """The active generation's manifest."""
        return self.manifests.get(self.active.model_version) if self.active else None


def served(settings: Settings) -> Served:
    """The announced generations.

    Raises:
        BrokerError: Kafka is not there, or a topic is missing.
    """
    manifests: dict[str, Manifest] = {}
    for record in read_to_end(settings, settings.topic("models"))[0]:
        name = (record.key or b"").decode("utf-8", "replace")
        manifests.pop(name, None)
        if record.value is not None:
            manifests[name] = _decode(record.value, Manifest, settings.topic("models"))
    active = None
    for record in read_to_end(settings, settings.topic("control"))[0]:
        if record.key == ACTIVE_KEY:
            active = None if record.value is None else _decode(record.value, Control, settings.topic("control"))
    return Served(manifests, active)


def _decode(value: bytes, kind: type[Any], topic: str) -> Any:
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, ValueError) as problem:
        raise BrokerError(f"{topic} holds something other than a {kind.__name__.lower()}: {problem}.") from None


def expect_topics(settings: Settings) -> tuple[dict[str, int], Served]:
    """The topics' partition counts, and what they serve.

    Raises:
        BrokerError: Kafka is not there, topics are missing, or their partition counts differ.
    """
    with speaking(settings, "looking at the topics"), administration(settings) as admin:
        counts = require_topics(admin, [[settings.topic(name) for name in group] for group in _GROUPS])
    return counts, served(settings)


def expect_feedback(known: Served, what: str, feedback: str) -> None:
    """Refuse a model that means something else by the kept histories than the active one.

    Raises:
        CheckFailed: the active one is of other feedback.
    """
    active = known.manifest
    if active is not None and active.policy.feedback != feedback:
        raise CheckFailed(
            f"{what} is of {feedback} feedback, the active {active.model_version} of {active.policy.feedback}: the "
            "kept histories mean something else; publish it below another kafka.prefix."
        )


def check(settings: Settings, manifest: Manifest) -> dict[str, int]:
    """Whether this generation may be published; returns the topics' partition counts.

    Raises:
        CheckFailed: a gate failed, the version is taken, or it could not read the histories that are kept, being of
            other feedback than the active one, or having another key.
        BrokerError: Kafka is not there, topics are missing, or their partition counts differ.
    """
    failed = [key_of(gate) for gate in manifest.gates if not gate.passed]
    if failed:
        raise CheckFailed(f"{manifest.model_version} failed its gates ({', '.join(failed)}) and is not published.")
    counts, known = expect_topics(settings)
    if manifest.model_version in known.manifests:
        raise CheckFailed(f"{manifest.model_version} is published already: a version is never written twice.")
    expect_feedback(known, manifest.model_version, manifest.policy.feedback)
    parent = known.manifest
    if parent is not None and parent.item_key != manifest.item_key:
        raise CheckFailed(
            f"{manifest.model_version} has another item_key than the active {parent.model_version}, so it could not "
            "read the kept histories: fit again with the topics at hand, or with --parent."
        )
    return counts
