"""The commands that change what is served, as they stand in the control topic; each is keys and values to send."""

from __future__ import annotations

import msgspec

from schemas.commands import ACTIVATION_KEY, ACTIVE_KEY, CANARY_KEY
from schemas.records import Control
from streamer.events.hashes import activation_id, generation_id

_TRIED = 0x5A5A_5A5A_5A5A_5A5A  # an activation in the same millisecond is another generation

Records = list[tuple[bytes, bytes | None]]
"""Keys and values, in the order of sending; None is a tombstone."""


def activation(model_version: str, at: int, item_topic: str, common_topic: str) -> Records:
    """Make a generation the one that is served.

    ``at``: now, ms; ``item_topic``: where the model's item vectors are as they were trained. A model that lies straight
    in the ``common_topic`` is the first one, stamped with its own name.
    """
    if item_topic == common_topic:
        return [(ACTIVE_KEY, msgspec.json.encode(Control("activate", model_version, at, item_topic)))]
    number = f"{activation_id(model_version, at):016x}"
    command = msgspec.json.encode(Control("activate", model_version, at, item_topic, number))
    return [(ACTIVATION_KEY + number.encode(), command), (ACTIVE_KEY, command)]


def canary(model_version: str, at: int, item_topic: str, fraction: float) -> Records:
    """Try a generation on a fraction of the users."""
    number = f"{activation_id(model_version, at) ^ _TRIED:016x}"
    command = msgspec.json.encode(Control("canary", model_version, at, item_topic, number, fraction))
    return [(ACTIVATION_KEY + number.encode(), command), (CANARY_KEY, command)]


def end_of_canary() -> Records:
    """Serve everybody with the active generation again."""
    return [(CANARY_KEY, None)]


def number_of(command: Control) -> int:
    """What rows and signals of an activation, or a trial, are stamped with."""
    return generation_id(command.model_version) if command.generation is None else int(command.generation, 16)
