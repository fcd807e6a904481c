"""The command that makes a generation the one that is served, as it stands in the control topic."""

from __future__ import annotations

import msgspec

from schemas.commands import ACTIVATION_KEY, ACTIVE_KEY
from schemas.records import Control
from streamer.events.hashes import activation_id


def activation(model_version: str, at: int, item_topic: str, common_topic: str) -> list[tuple[bytes, bytes]]:
    """Keys and values to send, in this order.

    ``at``: now, ms; ``item_topic``: where the model's item vectors are as they were trained. A model that lies straight
    in the ``common_topic`` is the first one, stamped with its own name.
    """
    if item_topic == common_topic:
        return [(ACTIVE_KEY, msgspec.json.encode(Control("activate", model_version, at, item_topic)))]
    number = f"{activation_id(model_version, at):016x}"
    command = msgspec.json.encode(Control("activate", model_version, at, item_topic, number))
    return [(ACTIVATION_KEY + number.encode(), command), (ACTIVE_KEY, command)]
