"""What the outcome of a log depends on besides the log: the manifest's policy and the worker's set-up."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

_DAY_MS = 24 * 60 * 60 * 1000

POSITIVE = ("view", "click", "like", "cart", "watch_complete", "purchase")
SUPPRESSING = ("hide", "dislike", "return")
KNOWN_TYPES = (*POSITIVE, *SUPPRESSING, "report")


@dataclass(frozen=True, slots=True)
class Rules:
    """One generation's rules; the defaults are the product's documented ones."""

    model_version: str
    dimension: int
    item_key: bytes
    average_user: tuple[float, ...]
    cut_offsets: dict[int, int] = field(default_factory=dict)
    weights: dict[str, float] = field(
        default_factory=lambda: dict(zip(POSITIVE, (0.5, 1.0, 2.0, 3.0, 4.0, 5.0), strict=True))
    )
    feedback: str = "implicit"
    half_life_ms: int = 30 * _DAY_MS
    confidence: str = "log"
    alpha: float = 5.0
    recency_entries: float = 0.0
    ridge: float = 10.0
    rhs: str = "c"
    history_capacity: int = 128
    keys_capacity: int = 64
    keys_window_ms: int = 7 * _DAY_MS
    lateness_ms: int = 7 * _DAY_MS
    future_ms: int = 5 * 60 * 1000
    window_ms: int = 90 * _DAY_MS
    cap_item_strength: float = 0.0
    cap_user_events_per_day: int = 0
    norm_cap: float = 1000.0
    suppress_capacity: int = 64
    ridge_nu: float = 0.0
    ridge_alpha0: float = 0.0
    session_weight: float = 0.0
    session_gap_ms: int = 30 * 60 * 1000
    session_entries: int = 20
    blend_events: int = 0
    segment_key: str = ""
    sgd_rate: float = 0.01
    sgd_reg: float = 0.01
    sgd_clip: float = 1.0
    sgd_objective: str = "pointwise"
    sgd_step: str = "constant"
    sgd_pull: float = 0.0
    sgd_budget: int = 0
    sgd_balance: float = 0.0
    new_item_users: int = 3
    new_items_cap: int = 10_000
    user_gramian: tuple[float, ...] | None = None
    ridge_items: float = 0.0
    item_partitions: int = 1
    trained_items: int = 0
    trained_users: int = 0
    trained_events: int = 0
    segments: dict[str, tuple[float, ...]] = field(default_factory=dict)
    popularity_user: tuple[float, ...] | None = None
    # Not in the manifest: the worker's own settings and the catalogue.
    tenant: str | None = None
    max_bytes: int = 65536
    invalid_items: frozenset[str] = frozenset()
    partitions: int = 1

    @property
    def serves(self) -> bool:
        """Is more published of a user than the row's vector?"""
        return bool(self.session_weight or self.blend_events or self.segment_key)

    @property
    def event_share(self) -> float:
        """What an event adds to its item's popularity: one over the events of a trained item, in the mean."""
        return self.trained_items / self.trained_events if self.trained_events else 0.0

    @classmethod
    def of_manifest(
        cls,
        manifest: bytes,
        *,
        partitions: int,
        tenant: str | None = None,
        max_bytes: int = 65536,
        invalid_items: frozenset[str] = frozenset(),
    ) -> Rules:
        """The rules that a manifest, as published, lays down."""
        data = json.loads(manifest)
        policy = data.get("policy", {})
        mine = {name: value for name, value in policy.items() if name in cls.__dataclass_fields__}
        return cls(
            model_version=data["model_version"],
            dimension=data["dimension"],
            item_key=bytes.fromhex(data["item_key"]),
            average_user=tuple(data["average_user"]),
            user_gramian=tuple(data["user_gramian"]) if data.get("user_gramian") else None,
            ridge_items=data.get("hyperparameters", {}).get("ridge_items", 0.0),
            item_partitions=data.get("item_partitions") or 1,
            cut_offsets={int(number): offset for number, offset in data.get("cut_offsets", {}).items()},
            trained_items=data.get("counts", {}).get("trained_items", data.get("counts", {}).get("items", 0)),
            trained_users=data.get("counts", {}).get("trained_users", data.get("counts", {}).get("users", 0)),
            trained_events=data.get("counts", {}).get("events", 0),
            segments={name: tuple(vector) for name, vector in data.get("segments", {}).items()},
            popularity_user=tuple(data["popularity_user"]) if data.get("popularity_user") else None,
            partitions=partitions,
            tenant=tenant,
            max_bytes=max_bytes,
            invalid_items=invalid_items,
            **mine,
        )
