"""The configuration: one TOML file, and `FACTORS_SECTION__KEY` environment variables over it.

`load_settings` reports every mistake at once, each with its place, value, what is allowed and the nearest
name, and contacts nothing. `[policy]` has the names of `schemas.records.Policy`, every other section those of
this file; both packages read the same keys. Times are milliseconds where the name ends in `_ms`. Secrets are
`SecretStr`: no representation of the settings prints them.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FilePath, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from schemas.records import Policy
from streamer.configuration import Across, Origins, read_configuration

DAY_MS = 24 * 60 * 60 * 1000

Port = Annotated[int, Field(ge=0, le=65_535)]
Positive = Annotated[int, Field(ge=1)]
Servers = Annotated[
    str,
    Field(
        pattern=r"^([^\s,:]+|\[[0-9a-fA-F:]+\]):\d{1,5}(,\s*([^\s,:]+|\[[0-9a-fA-F:]+\]):\d{1,5})*$",
        description="host:port, several separated by commas",
    ),
]
TopicPrefix = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9._-]{0,100}$", description="at most 100 letters, digits, dots, _ and -")
]
ServiceName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$", description="1 to 100 letters, digits, dots, _ and -")
]
Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
UpToOne = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A table of the file: read once, never changed, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_a_boolean(cls, value: object, info: ValidationInfo) -> object:
        # Python counts true as 1; in a file it is a slip.
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise PydanticCustomError("boolean", "a boolean")
        return value


def _agree(*mistakes: Across) -> None:
    """Raise what keys of a section get wrong together, all of it at once."""
    if mistakes:
        raise PydanticCustomError("across", "{mistakes}", {"mistakes": mistakes})


class Kafka(Section):
    """Where the broker is and how to talk to it."""

    bootstrap_servers: Servers = "localhost:9092"
    prefix: TopicPrefix = "factors."
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str | None = None
    password: SecretStr | None = None
    ssl_cafile: FilePath | None = None
    ssl_certfile: FilePath | None = None
    ssl_keyfile: FilePath | None = None

    @model_validator(mode="after")
    def _credentials_are_complete(self) -> Self:
        mistakes = []
        if self.security_protocol.startswith("SASL"):
            needs = f"missing; security_protocol = {self.security_protocol} needs it"
            absent = [key for key in ("username", "password") if getattr(self, key) is None]
            mistakes += [Across(key, "security_protocol", needs) for key in absent]
        if self.ssl_keyfile and not self.ssl_certfile:
            mistakes.append(Across("ssl_certfile", "ssl_keyfile", "missing, and ssl_keyfile needs it"))
        _agree(*mistakes)
        return self


class Topics(Section):
    """How `streamer topics create` makes the topics, and what `topics check` holds them to."""

    partitions: Annotated[int, Field(ge=1, le=10_000)] = 8
    replication: Annotated[int, Field(ge=1, le=32_767)] = 1
    interactions_retention_ms: Positive = 90 * DAY_MS
    dead_letters_retention_ms: Positive = 14 * DAY_MS
    tombstone_retention_ms: Positive = 7 * DAY_MS


class Events(Section):
    """What the workers accept from `interactions`."""

    tenant: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    max_bytes: Annotated[int, Field(ge=256, le=1_000_000)] = 65_536


class Engine(Section):
    """Batches, transactions, group membership and the solver."""

    app_id: ServiceName = "factors"
    instance_id: ServiceName | None = None
    session_timeout_ms: Annotated[int, Field(ge=6_000, le=1_800_000)] = 10_000
    transaction_timeout_ms: Annotated[int, Field(ge=1_000, le=900_000)] = 15_000
    max_batch_events: Positive = 2_048
    max_pending_events: Positive = 8_192
    concurrent_batches: Positive = 3
    renew_per_second: Positive = 5_000
    solver: Literal["cg", "cholesky"] = "cg"
    tolerance: Annotated[float, Field(gt=0, le=1e-2, allow_inf_nan=False)] = 1e-6

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        mistakes = []
        if self.transaction_timeout_ms <= self.session_timeout_ms:
            why = "a stalled worker must lose its partitions first"
            more = f"must be greater than session_timeout_ms = {self.session_timeout_ms}: {why}"
            mistakes.append(Across("transaction_timeout_ms", "session_timeout_ms", more))
        if self.max_pending_events < self.max_batch_events:
            at_least = f"must be at least max_batch_events = {self.max_batch_events}"
            mistakes.append(Across("max_pending_events", "max_batch_events", at_least))
        _agree(*mistakes)
        return self


class Canary(Section):
    """When a generation that is tried on some users becomes everybody's, or nobody's.

    The worker that holds the users' first partition decides, by its own users: both generations must have been judged
    on ``min_events`` events (of the sample, ``quality.sample``).
    """

    auto: bool = True
    min_events: Positive = 1_000
    margin: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.1
    max_norm_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0


class State(Section):
    """The local store."""

    dir: Path = Path("state")
    cache_mb: Annotated[int, Field(ge=8, le=65_536)] = 512


class Http(Section):
    """Where metrics and health answer; port 0 takes a free one and logs it."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Port = 0


class Log(Section):
    """How the program speaks; `auto` is coloured text on a terminal and JSON lines elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Quality(Section):
    """How the users role judges the factors on the events that come in, and when it says that something has shifted."""

    sample: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.01
    per_second: Positive = 50
    cpu: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.05
    k: Annotated[int, Field(ge=1, le=1_000)] = 10
    window: Annotated[int, Field(ge=10, le=1_000_000)] = 1_000
    psi_bound: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.25
    patience: Annotated[int, Field(ge=1, le=1_000)] = 3
    false_alarms: Share = 0.002
    ask_for_retrain: bool = False


class Factors(Section):
    """How vectors are published: JSON, or raw little-endian float32 with the rest in headers."""

    encoding: Literal["json", "f32le"] = "json"


class Bootstrap(Section):
    """How `python -m bootstrap` trains, evaluates and keeps what it made."""

    objective: Literal["als", "sgd", "bpr"] = "als"
    dimension: Annotated[int, Field(ge=1, le=4_096)] = 64
    iterations: Annotated[int, Field(ge=1, le=1_000)] = 15
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    train_fraction: Share = 0.8
    recall_k: Annotated[int, Field(ge=1, le=1_000)] = 10
    solver: Literal["cg", "cholesky"] = "cg"
    steps: Annotated[int, Field(ge=1, le=100)] = 3
    ridge_items: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    patience: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    ridge_item_bias: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.012
    rate_decay: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.98
    reg_users: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    reg_items: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    reg_biases: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    reg_seen: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    time_bins: Annotated[int, Field(ge=1, le=1_000)] = 1
    negative_popularity: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    threads: Annotated[int, Field(ge=0, le=1_024)] = 0
    spark_master: Annotated[str, Field(min_length=1)] = "local[*]"
    content: bool = False
    content_ridge: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    segment_by: Annotated[str, Field(max_length=256)] = ""
    windows: Annotated[int, Field(ge=1, le=1_000)] = 20
    segment_users: Positive = 20
    artifacts: Annotated[str, Field(min_length=1)] = "artifacts"


class Gates(Section):
    """What a model must reach before it is published; see `bootstrap.gates`."""

    recall_over_popularity: NotNegative = 1.0
    rmse_over_biases: NotNegative = 1.0
    recall_over_active: NotNegative = 0.8
    items_over_active: UpToOne = 0.8
    users_over_active: UpToOne = 0.5
    min_recall: UpToOne = 0.0
    min_ndcg: UpToOne = 0.0
    min_map: UpToOne = 0.0
    min_hit_rate: UpToOne = 0.0
    min_new_users_recall: UpToOne = 0.0
    min_new_items_recall: UpToOne = 0.0
    min_window_recall: UpToOne = 0.0
    min_segment_recall: UpToOne = 0.0
    min_coverage: UpToOne = 0.0
    min_novelty: NotNegative = 0.0
    max_top_share: UpToOne = 1.0
    max_gini: UpToOne = 1.0
    max_suppressed_share: UpToOne = 1.0
    max_withdrawn_share: UpToOne = 0.0
    min_known_item_events: UpToOne = 0.0
    min_known_user_events: UpToOne = 0.0
    min_user_coverage: UpToOne = 0.0
    min_item_coverage: UpToOne = 0.0
    min_ann_recall: UpToOne = 0.0
    min_median_norm: NotNegative = 0.0
    max_parity_error: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-5
    min_users: Positive = 1
    min_items: Positive = 1


class Settings(Section):
    """All settings; `Settings()` is the defaults, `load_settings` reads a file and the environment."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    kafka: Kafka = Kafka()
    topics: Topics = Topics()
    events: Events = Events()
    policy: Policy = Policy()
    engine: Engine = Engine()
    canary: Canary = Canary()
    state: State = State()
    http: Http = Http()
    log: Log = Log()
    factors: Factors = Factors()
    quality: Quality = Quality()
    bootstrap: Bootstrap = Bootstrap()
    gates: Gates = Gates()

    def topic(self, name: str) -> str:
        """The full name of a topic: `topic("interactions")` is `factors.interactions`."""
        return f"{self.kafka.prefix}{name}"


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings from the file (None = none) and the environment (None = this process's).

    Raises:
        ConfigError: lists every mistake.
    """
    return load_with_origins(path, environ)[0]


def load_with_origins(path: Path | None = None, environ: Mapping[str, str] | None = None) -> tuple[Settings, Origins]:
    """As `load_settings`, and where each value that is no default came from, by dotted key."""
    return read_configuration(Settings, path, os.environ if environ is None else environ)


def kafka_python_options(settings: Settings) -> dict[str, Any]:
    """What every kafka-python client of ours is made with."""
    kafka = settings.kafka
    options: dict[str, Any] = {
        "bootstrap_servers": _servers(settings),
        "security_protocol": kafka.security_protocol,
        **_credentials(kafka),
    }
    if "SSL" in kafka.security_protocol.split("_"):
        for key in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
            file = getattr(kafka, key)
            options[key] = None if file is None else str(file)
    return options


def aiokafka_options(settings: Settings) -> dict[str, Any]:
    """What every aiokafka client of ours is made with."""
    kafka = settings.kafka
    options: dict[str, Any] = {
        "bootstrap_servers": _servers(settings),
        "security_protocol": kafka.security_protocol,
        **_credentials(kafka),
    }
    if "SSL" in kafka.security_protocol.split("_"):
        context = ssl.create_default_context(cafile=kafka.ssl_cafile)
        if kafka.ssl_certfile:
            context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile)
        options["ssl_context"] = context
    return options


def _servers(settings: Settings) -> list[str]:
    return [server.strip() for server in settings.kafka.bootstrap_servers.split(",")]


def _credentials(kafka: Kafka) -> dict[str, Any]:
    if not kafka.security_protocol.startswith("SASL"):
        return {}
    return {
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": kafka.username,
        "sasl_plain_password": kafka.password.get_secret_value() if kafka.password else None,
    }
