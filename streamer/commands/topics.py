"""`streamer topics`: make the topics as the contract wants them, and check those that are there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.topics import TOPICS, Topic
from streamer.commands.shared import ConfigOption, JsonOption, dump, say, settings_of, table
from streamer.errors import CheckFailed
from streamer.settings import Settings

if TYPE_CHECKING:
    from kafka import KafkaAdminClient

app = typer.Typer(help="Create or check the topics.", no_args_is_help=True)

_MISSING = "missing"
# Few records, all of them read by every worker: one partition keeps their order.
_SINGLE = ("models", "control")
# Rows and vectors are rewritten all the time. Half of Kafka's default lets the cleaner keep up; much smaller ones cost
# a broker with many partitions its open files.
_SEGMENT_BYTES = 512 << 20
_BATCH_BYTES = 8 << 20
# An erased user must be gone from the log in days, however quiet the topic is.
_COMPACTION_LAG_MS = 7 * 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """A topic as it must be. `bound` are the configs that correctness hangs on; `check` compares these."""

    name: str
    partitions: int
    bound: Mapping[str, str]
    free: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which a topic is not as it must be."""

    topic: str
    what: str
    found: str
    wanted: str
    fix: str

    def __str__(self) -> str:
        if self.found == _MISSING:
            return f"{self.topic} is missing"
        return f"{self.topic}: {self.what} is {self.found}, must be {self.wanted}"


def wanted_topics(settings: Settings) -> list[Wanted]:
    """Every topic of the contract, by these settings."""
    return [_wanted(settings, topic) for topic in TOPICS]


def _wanted(settings: Settings, topic: Topic) -> Wanted:
    bound = {"cleanup.policy": topic.cleanup, "max.message.bytes": str(_BATCH_BYTES)}
    free: dict[str, str] = {}
    if topic.cleanup == "compact":
        free = {
            "delete.retention.ms": str(settings.topics.tombstone_retention_ms),
            "max.compaction.lag.ms": str(_COMPACTION_LAG_MS),
            "segment.bytes": str(_SEGMENT_BYTES),
        }
    elif topic.name == "dead-letters":
        # A letter keeps the time of its record.
        bound["message.timestamp.type"] = "CreateTime"
        free = {"retention.ms": str(settings.topics.dead_letters_retention_ms)}
    else:
        free = {"retention.ms": str(settings.topics.interactions_retention_ms)}
    if topic.name == "interactions":
        # Lateness is judged against the broker's clock: a replay decides alike, and no producer can choose.
        bound["message.timestamp.type"] = "LogAppendTime"
    partitions = 1 if topic.name in _SINGLE else settings.topics.partitions
    return Wanted(settings.topic(topic.name), partitions, bound, free)


@app.command()
def create(
    config: ConfigOption = None,
    *,
    items: Annotated[Path | None, typer.Option(metavar="FILE", help="Publish this catalogue (NDJSON) as well.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Create the topics that are missing; topics that are there are never changed, only checked."""
    from streamer.commands.cluster import administration
    from streamer.commands.items import publish_catalogue, read_catalogue

    settings = settings_of(config)
    catalogue = None if items is None else read_catalogue(str(items))
    with administration(settings) as admin:
        created = _create(admin, settings)
        differences = differences_of(admin, settings)
    if catalogue is not None:
        publish_catalogue(settings, catalogue)
    if as_json:
        dump({"created": created, "differences": differences})
    else:
        say(f"{len(created)} topics created, {len(TOPICS) - len(created)} were there already.")
        if catalogue is not None:
            say(f"{len(catalogue):,} catalogue entries published.")
    _refuse(differences, as_json=as_json)


@app.command()
def check(config: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """Compare every topic with the contract. Exit code 1 if one differs."""
    from streamer.commands.cluster import administration

    settings = settings_of(config)
    with administration(settings) as admin:
        differences = differences_of(admin, settings)
    if as_json:
        dump({"ok": not differences, "differences": differences})
    _refuse(differences, as_json=as_json)
    if not as_json:
        say(f"All {len(TOPICS)} topics are as they must be.")


def _create(admin: "KafkaAdminClient", settings: Settings) -> list[str]:
    from kafka.errors import TopicAlreadyExistsError

    present = set(admin.list_topics())
    created = []
    for wanted in wanted_topics(settings):
        if wanted.name in present:
            continue
        options = {
            "num_partitions": wanted.partitions,
            "replication_factor": settings.topics.replication,
            "configs": {**wanted.bound, **wanted.free},
        }
        try:
            admin.create_topics({wanted.name: options}, wait_for_metadata=True)
        except TopicAlreadyExistsError:  # somebody else was faster
            continue
        created.append(wanted.name)
    return created


def differences_of(admin: "KafkaAdminClient", settings: Settings) -> list[Difference]:
    """Every difference between the topics and the contract."""
    from kafka.admin import ConfigResource, ConfigResourceType

    wanted = wanted_topics(settings)
    present = set(admin.list_topics())
    there = [topic for topic in wanted if topic.name in present]
    differences = [
        Difference(topic.name, "topic", _MISSING, "", "run `streamer topics create`")
        for topic in wanted
        if topic.name not in present
    ]
    if not there:
        return differences
    counts = {
        found["name"]: len(found["partitions"]) for found in admin.describe_topics([topic.name for topic in there])
    }
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in there]
    configs = admin.describe_configs(resources, config_filter="all")["topic"]
    for topic in there:
        differences += _compare(topic, counts[topic.name], configs[topic.name])
    return differences


def _compare(wanted: Wanted, partitions: int, configs: Mapping[str, Any]) -> list[Difference]:
    differences = []
    if partitions != wanted.partitions:
        fix = (
            "set topics.partitions to what is there, or delete the topics and start anew: "
            "adding partitions would move users away from their rows"
        )
        differences.append(Difference(wanted.name, "partitions", str(partitions), str(wanted.partitions), fix))
    for key, value in wanted.bound.items():
        found = str(configs.get(key, {}).get("value", ""))
        good = int(found or 0) >= _least(wanted, key) if key == "max.message.bytes" else found == value
        if not good:
            fix = (
                f"kafka-configs.sh --alter --entity-type topics --entity-name {wanted.name} --add-config {key}={value}"
            )
            differences.append(Difference(wanted.name, key, found, value, fix))
    return differences


def _least(wanted: Wanted, key: str) -> int:
    """Kafka's own default does for small batches: less than that is a difference."""
    return min(int(wanted.bound[key]), 1_048_588)


def _refuse(differences: list[Difference], *, as_json: bool) -> None:
    """Show what differs and end with the check's no."""
    if not differences:
        return
    if not as_json:
        table(
            ("topic", "what", "found", "wanted", "fix"),
            ((one.topic, one.what, one.found, one.wanted, one.fix) for one in differences),
        )
    topics = sorted({one.topic for one in differences})
    raise CheckFailed(f"{len(topics)} of {len(TOPICS)} topics are not as they must be: {', '.join(topics)}.")
