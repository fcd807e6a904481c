"""The AsyncAPI document names exactly the topics and the schema files that there are."""

from collections.abc import Iterator
from typing import Any

import yaml

from schemas.topics import PREFIX, TOPICS
from tests.schemas.files import FOLDER

DOCUMENT: dict[str, Any] = yaml.safe_load((FOLDER / "asyncapi.yaml").read_text(encoding="utf-8"))


def references(node: object) -> Iterator[str]:
    """Every ``$ref`` below a node."""
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for inner in node.values():
            yield from references(inner)
    if isinstance(node, list):
        for inner in node:
            yield from references(inner)


def resolve(reference: str) -> Any:
    """What a reference into the document points to."""
    node: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return node


def test_topics() -> None:
    """One channel a topic, under its full default name, in the same order."""
    channels = DOCUMENT["channels"]
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert list(channels) == [topic.name for topic in TOPICS]
    assert [channel["address"] for channel in channels.values()] == [PREFIX + topic.name for topic in TOPICS]


def test_cleanup() -> None:
    """Each channel states the clean-up of its topic."""
    for topic in TOPICS:
        bindings = resolve(DOCUMENT["channels"][topic.name]["bindings"]["$ref"])
        assert bindings["kafka"]["topicConfiguration"]["cleanup.policy"] == [topic.cleanup]


def test_values() -> None:
    """Each channel's messages refer to a schema file, or to the layouts, of its topic, and none is left out."""
    for topic in TOPICS:
        found = set()
        for message in DOCUMENT["channels"][topic.name]["messages"].values():
            target = resolve(message["$ref"])
            named = {*references(target), target.get("x-layout", "")} - {
                "",
                "#/components/messageBindings/idKey",
            }
            assert len(named) == 1
            found |= named
        assert found == {topic.value, *topic.others}


def test_references() -> None:
    """No reference dangles, no schema file and no component is left out."""
    found = set(references(DOCUMENT))
    for reference in found:
        if reference.startswith("#/"):
            resolve(reference)
    files = {path.name for path in FOLDER.glob("*.json")}
    assert {reference for reference in found if not reference.startswith("#/")} == files
    assert {value for topic in TOPICS for value in (topic.value, *topic.others)} == files | {"layouts.py"}
    for kind, components in DOCUMENT["components"].items():
        for name in components:
            assert f"#/components/{kind}/{name}" in found


def test_every_channel_is_used() -> None:
    """Each topic is read or written by some operation."""
    used = {operation["channel"]["$ref"] for operation in DOCUMENT["operations"].values()}
    assert used == {f"#/channels/{topic.name}" for topic in TOPICS}
