"""The keys of `factors.control`, and the records that need nothing else to be made."""

from typing import Final

import msgspec

from schemas.records import Retrain

ACTIVE_KEY: Final = b"active"
ACTIVATION_KEY: Final = b"activation:"
CANARY_KEY: Final = b"canary"
RETRAIN_KEY: Final = b"retrain"


def retrain_request(wish: Retrain) -> tuple[bytes, bytes]:
    """Key and value of a wish for a new generation."""
    return RETRAIN_KEY, msgspec.json.encode(wish)
