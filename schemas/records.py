"""The typed records of every JSON topic; `schemas/*.v1.json` says the same to every other language.

Bounds are written once, in the annotations: the decoder, the comparison with the JSON Schema files in the
tests and the checks of `Policy` all read them from there. Times are integer milliseconds since 1970, UTC.
"""

from functools import cache
from math import isfinite
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

INT64_MAX = 2**63 - 1

POSITIVES = ("view", "click", "like", "cart", "watch_complete", "purchase")
"""Event types that are taste: each has a weight."""
SUPPRESSING = ("hide", "dislike", "return")
"""Event types that put the item into the user's suppression set."""
SET_ASIDE = ("report",)
"""Event types that never reach training."""
TYPES = POSITIVES + SUPPRESSING + SET_ASIDE

EventType = Literal[
    "view", "click", "like", "cart", "watch_complete", "purchase", "hide", "dislike", "return", "report"
]
Traffic = Literal["human", "bot", "internal"]

RequestId = Annotated[str, Meta(min_length=1, max_length=128)]
Id = Annotated[str, Meta(min_length=1, max_length=256)]
Millis = Annotated[int, Meta(ge=0, le=INT64_MAX)]
Count = Annotated[int, Meta(ge=0, le=INT64_MAX)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
# Rows count their entries in 16 bits (schemas/layouts.py).
Dimension = Annotated[int, Meta(ge=1, le=65_535)]
Capacity = Annotated[int, Meta(ge=1, le=65_535)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
# An integer beyond 64 bits is a bad number, never a float that only looks like it.
Int64 = Annotated[int, Meta(ge=-INT64_MAX - 1, le=INT64_MAX)]
Scalar = str | Int64 | float | bool | None

DAY_MS = 24 * 60 * 60 * 1000
# A century: so bounded, durations added to any sensible time stay within 64 bits.
Duration = Annotated[int, Meta(ge=0, le=36_525 * DAY_MS)]

RESERVOIR = 32
"""Users that an item outside the generation is folded in from, at most."""


class Interaction(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One event, `factors.interactions`, in its normal form: the timestamp is always milliseconds.

    ``null`` in an optional field but ``value`` is as good as leaving the field out.
    """

    request_id: RequestId
    user_id: Id
    item_id: Id
    event_type: EventType
    timestamp: Millis
    value: Positive = 1.0
    tenant: Id | None = None
    consent: bool | None = None
    traffic: Traffic | None = None
    schema_version: Literal[1] | None = None
    context: dict[str, Scalar] | None = None


class CatalogueEntry(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One item's catalogue entry, `factors.items`, keyed by item id."""

    title: str
    attributes: dict[str, str | int | float | bool | list[str]] | None = None
    state: Literal["active", "withdrawn", "banned"] = "active"


class FactorRecord(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One published vector, `factors.user-factors` and `factors.item-factors`.

    ``suppressed`` is a user's only, ``weight`` an item's; ``session`` and ``bias`` are there where they apply. A user's
    vector is ``w m + (1 - w) a``: ``w`` is ``history_weight``, ``a`` the ``prior``, both there where the basis is a
    blend; ``m`` holds ``session_weight`` of the session, where there is one, and the rest of the long term. An item
    has a ``basis`` only where the generation does not have it ("history": it was folded in), ``popularity`` where the
    policy balances.
    """

    id: Id
    kind: Literal["user", "item"]
    vector: list[float]
    dimension: Dimension
    model_version: Id
    version: Count
    events: Count
    event_time: Millis
    items_epoch: list[Count]
    suppressed: list[Id] | None = None
    training_data_end: Millis | None = None
    basis: Literal["history", "blend", "segment", "average", "popularity"] | None = None
    prior: Literal["segment", "average", "popularity"] | None = None
    history_weight: Share | None = None
    session: list[float] | None = None
    session_weight: Share | None = None
    bias: float | None = None
    popularity: NotNegative | None = None
    weight: Positive | None = None


def _default_weights() -> dict[str, float]:
    return {"view": 0.5, "click": 1.0, "like": 2.0, "cart": 3.0, "watch_complete": 4.0, "purchase": 5.0}


class Policy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What turns events into strengths, and strengths into vectors; frozen in each generation's manifest.

    A policy checks itself however it is made; the error names every wrong field, its value and what is
    allowed.
    """

    weights_version: Annotated[str, Meta(min_length=1, max_length=64)] = "1"
    weights: dict[str, Positive] = msgspec.field(default_factory=_default_weights)
    feedback: Literal["implicit", "explicit"] = "implicit"
    half_life_ms: Duration = 30 * DAY_MS
    confidence: Literal["log", "linear", "raw"] = "log"
    alpha: NotNegative = 5.0
    recency_entries: NotNegative = 0.0
    ridge: Positive = 10.0
    ridge_bias: Positive = 3.0
    rating_half_life_ms: Duration = 0
    rhs: Literal["c", "c-1"] = "c"
    history_capacity: Capacity = 128
    keys_capacity: Capacity = 64
    # Longer than lateness and future together: a retry that is still taken must still find its key.
    keys_window_ms: Duration = 8 * DAY_MS
    lateness_ms: Duration = 7 * DAY_MS
    future_ms: Duration = 5 * 60 * 1000
    window_ms: Duration = 90 * DAY_MS
    cap_item_strength: NotNegative = 0.0
    cap_user_events_per_day: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    norm_cap: Positive = 1000.0
    sgd_rate: NotNegative = 0.01
    sgd_reg: NotNegative = 0.01
    sgd_clip: Positive = 1.0
    sgd_objective: Literal["pointwise", "bpr"] = "pointwise"
    sgd_step: Literal["constant", "adagrad"] = "constant"
    sgd_pull: NotNegative = 0.0
    sgd_budget: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    sgd_balance: Annotated[float, Meta(ge=0, le=1)] = 0.0
    # An item is folded in from at most `RESERVOIR` users, so it cannot wait for more.
    new_item_users: Annotated[int, Meta(ge=1, le=RESERVOIR)] = 3
    new_items_cap: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 10_000
    suppress_capacity: Capacity = 64
    session_weight: Share = 0.0
    session_gap_ms: Duration = 30 * 60 * 1000
    session_entries: Capacity = 20
    blend_events: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    segment_key: Annotated[str, Meta(max_length=64)] = ""
    ridge_nu: Share = 0.0
    ridge_alpha0: NotNegative = 0.0
    unobserved_power: Share = 0.0

    def __post_init__(self) -> None:
        """Refuse values that no policy may have.

        Raises:
            ValueError: one line a mistake: field, value, what is allowed.
        """
        mistakes = policy_mistakes({name: getattr(self, name) for name in self.__struct_fields__})
        if mistakes:
            raise ValueError("; ".join(mistakes))


class Gate(Struct, frozen=True, forbid_unknown_fields=True):
    """One bound that a model was held to before it was published, and what it reached."""

    name: str
    bound: float
    value: float
    passed: bool


class Artifact(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a generation's files lie, and the SHA-256 of each."""

    uri: str
    files: dict[str, Sha256]


class Alignment(Struct, frozen=True, forbid_unknown_fields=True):
    """How a generation's space was turned towards its parent's (orthogonal Procrustes).

    residual: |V R - W| / |W| over the ``items`` that both have, V this generation's vectors and W the parent's.
    """

    parent_version: Id
    items: Count
    residual: NotNegative


class Reference(Struct, frozen=True, forbid_unknown_fields=True):
    """What the training data were made of, for workers to compare with: drift, and popularity from the start.

    ``event_types``: events of each type; ``popular_items``: positive events of the most popular items, the most
    popular first; ``item_events``: positive events of all items.
    """

    event_types: dict[str, Count]
    popular_items: dict[str, Count]
    item_events: Count


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one model generation is and where it came from, `factors.models`, keyed by model version."""

    model_version: Id
    dimension: Dimension
    algorithm: str = "implicit-als"
    created_at: Millis
    policy: Policy
    hyperparameters: dict[str, int | float | str]
    training_data_start: Millis
    training_data_end: Millis
    cut_offsets: dict[str, Count]
    counts: dict[str, Count]
    dataset_sha256: Sha256
    item_key: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    average_user: list[float]
    average_bias: float | None = None
    global_mean: float | None = None
    segments: dict[str, list[float]]
    metrics: dict[str, float]
    gates: list[Gate]
    artifact: Artifact
    parent_version: Id | None = None
    code_version: str
    item_partitions: Annotated[int, Meta(ge=1)] | None = None
    items_sha256: Sha256 | None = None
    alignment: Alignment | None = None
    cut_time: Millis | None = None
    reference: Reference | UnsetType = UNSET
    user_gramian: list[float] | None = None
    popularity_user: list[float] | None = None

    def __post_init__(self) -> None:
        """Refuse vectors and a Gramian of another dimension than the manifest's.

        So are explicit feedback without its mean, and a ridge without its item count.

        Raises:
            ValueError: names what is wrong.
        """
        vectors = {f"segments.{name}": vector for name, vector in self.segments.items()}
        if self.popularity_user is not None:
            vectors["popularity_user"] = self.popularity_user
        for name, vector in {"average_user": self.average_user, **vectors}.items():
            if len(vector) != self.dimension:
                raise ValueError(f"{name}: has {len(vector)} numbers where dimension is {self.dimension}")
        triangle = self.dimension * (self.dimension + 1) // 2
        if self.user_gramian is not None and len(self.user_gramian) != triangle:
            raise ValueError(f"user_gramian: has {len(self.user_gramian)} numbers where a triangle has {triangle}")
        if self.policy.ridge_nu and "items" not in self.counts:
            raise ValueError("counts.items: missing, and policy.ridge_nu needs it")
        for name, number in {"average_bias": self.average_bias, "global_mean": self.global_mean}.items():
            if (number is not None) != (self.policy.feedback == "explicit"):
                raise ValueError(f"{name}: belongs to explicit feedback and to no other, got {number!r}")

    @property
    def width(self) -> int:
        """Numbers that a row, a signal and the item replica hold: the vector's, and behind them its bias if any."""
        return self.dimension + (self.policy.feedback == "explicit")

    @property
    def average_row(self) -> list[float]:
        """The average user as rows hold it: `width` numbers."""
        return self.average_user if self.average_bias is None else [*self.average_user, self.average_bias]


class Control(Struct, frozen=True, forbid_unknown_fields=True):
    """One standing command, `factors.control`; the key ``active`` holds the generation that is served.

    ``item_topic`` is the full name of the topic that holds this generation's item vectors as they were trained.
    ``generation`` is what rows and signals of this activation are stamped with, in hexadecimal, another one each time
    that a model is activated; None for the model that was published straight into the topics, which is stamped with
    its own name. Under the key ``activation:<generation>`` each activation stays on record.

    The command ``canary``, key ``canary``: a ``fraction`` of the users, by hash, is served with this model, everybody
    else as before; a tombstone ends it.
    """

    command: Literal["activate", "canary"]
    model_version: Id
    at: Millis
    item_topic: Annotated[str, Meta(min_length=1, max_length=249)]
    generation: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")] | None = None
    fraction: Share | None = None


class Retrain(Struct, frozen=True, forbid_unknown_fields=True):
    """A worker's wish for a new generation, `factors.control`, key ``retrain``.

    ``model_version`` is the generation that the worker serves, ``feature`` what has shifted and ``value`` by how much.
    """

    command: Literal["retrain"]
    model_version: Id
    at: Millis
    feature: Literal["event_types", "item_popularity", "scores", "loss"]
    value: float


_OF_RATINGS: dict[str, str | int] = {
    "sgd_objective": "pointwise",
    "sgd_step": "constant",
    "sgd_pull": 0,
    "sgd_budget": 0,
    "sgd_balance": 0,
    "session_weight": 0,
    "blend_events": 0,
    "segment_key": "",
    "ridge_nu": 0,
    "unobserved_power": 0,
}
"""With ratings an item moves by plain SGD, and a user's own solve is published: these have no other value there."""


def policy_mistakes(values: dict[str, Any]) -> list[str]:
    """Every mistake in the values of a policy's fields, as ``policy.<field>: must be <...>, got <...>``."""
    mistakes = []
    types = _policy_types()
    for name, value in values.items():
        if name == "weights":
            mistakes += _weight_mistakes(value)
        elif not _fits(value, types[name]):
            mistakes.append(f"policy.{name}: must be {_allowed(types[name])}, got {value!r}")
        elif values.get("feedback") == "explicit" and value != _OF_RATINGS.get(name, value):
            wanted = f"{_OF_RATINGS[name] or repr(_OF_RATINGS[name])} where policy.feedback is explicit"
            mistakes.append(f"policy.{name}: must be {wanted}, got {value!r}")
    return mistakes


def _weight_mistakes(weights: object) -> list[str]:
    known = ", ".join(POSITIVES)
    if not isinstance(weights, dict):
        return [f"policy.weights: must be a table of {known}, got {weights!r}"]
    mistakes = []
    for name, weight in weights.items():
        if name not in POSITIVES:
            mistakes.append(f"policy.weights.{name}: must be one of {known}, got {name!r}")
        elif not _fits(weight, Positive):
            mistakes.append(f"policy.weights.{name}: must be {_allowed(Positive)}, got {weight!r}")
    missing = [name for name in POSITIVES if name not in weights]
    if missing:
        mistakes.append(f"policy.weights: must name every one of {known}, lacks {', '.join(missing)}")
    return mistakes


def _fits(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    # TOML has inf, which passes bounds.
    return not isinstance(value, float) or isfinite(value)


def _allowed(kind: Any) -> str:
    """The values that an annotated type allows, in words."""
    base, *notes = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    if get_origin(base) is Literal:
        return "one of " + ", ".join(get_args(base))
    words = {int: "a whole number", float: "a finite number", str: "text"}[base]
    signs = {"gt": ">", "ge": ">=", "le": "<=", "min_length": "of length >=", "max_length": "of length <="}
    bounds = [
        f"{sign} {note_value}"
        for note in notes
        for name, sign in signs.items()
        if (note_value := getattr(note, name)) is not None
    ]
    return " ".join([words, " and ".join(bounds)]).rstrip()


@cache
def _policy_types() -> dict[str, Any]:
    """The annotated type of each of the policy's fields."""
    return {field.name: field.type for field in msgspec.structs.fields(Policy)}
