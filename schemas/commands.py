"""The keys of `factors.control`, and its records as bytes: whoever sends a command makes it here."""

from typing import Final

import msgspec

from schemas.records import Control, Retrain

ACTIVE_KEY: Final = b"active"
RETRAIN_KEY: Final = b"retrain"


def activation(model_version: str, item_topic: str, now_ms: int) -> tuple[bytes, bytes]:
    """Key and value of the command that makes a generation the one that is served."""
    return ACTIVE_KEY, msgspec.json.encode(Control("activate", model_version, now_ms, item_topic))


def retrain_request(wish: Retrain) -> tuple[bytes, bytes]:
    """Key and value of a wish for a new generation."""
    return RETRAIN_KEY, msgspec.json.encode(wish)
