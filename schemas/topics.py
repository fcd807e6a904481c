"""Every topic, with what its records are keyed by and how it is cleaned; names lack the prefix."""

from dataclasses import dataclass
from typing import Final, Literal

PREFIX: Final = "factors."


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of the contract.

    ``value`` is the schema file of a JSON value or of a dead letter's headers, or ``layouts.py`` for bytes;
    ``others`` are the schema files of other keys.
    """

    name: str
    key: str
    cleanup: Literal["delete", "compact"]
    value: str
    others: tuple[str, ...] = ()


TOPICS: Final = (
    Topic("interactions", "user_id", "delete", "interaction.v1.json"),
    Topic("user-factors", "user_id", "compact", "factor.v1.json"),
    Topic("item-factors", "item_id", "compact", "factor.v1.json"),
    Topic("dead-letters", "as it came", "delete", "dead-letter.v1.json"),
    Topic("items", "item_id", "compact", "item.v1.json"),
    Topic("models", "model_version", "compact", "manifest.v1.json"),
    Topic("control", "active", "compact", "control.v1.json", ("retrain.v1.json",)),
    Topic("item-signals", "item_id", "delete", "layouts.py"),
    Topic("user-state", "user_id", "compact", "layouts.py"),
    Topic("item-state", "item_id", "compact", "layouts.py"),
)
