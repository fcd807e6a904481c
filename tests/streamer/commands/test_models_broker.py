"""`models`, `watch`, `explain` and `audit` on a real broker, with rows and vectors that the worker's step made."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from schemas.records import Control, Manifest, Policy
from streamer.commands.cluster import consuming, newest_of, producing
from streamer.reader import FactorReader
from streamer.settings import Settings
from tests.streamer.commands.calls import Commands
from tests.streamer.commands.stage import Stage
from tests.streamer.steps.world import event

pytestmark = pytest.mark.integration


def _clicks(user: str, *items: str, start: int = 0) -> list[dict[str, Any]]:
    now = time.time_ns() // 1_000_000
    return [
        event(user_id=user, item_id=item, request_id=f"{start + number}", timestamp=now - 1_000 + number)
        for number, item in enumerate(items)
    ]


def _standing(settings: Settings, key: str) -> Control | None:
    with consuming(settings) as consumer:
        record = newest_of(consumer, settings.topic("control"), key)
    return None if record is None or record.value is None else msgspec.json.decode(record.value, type=Control)


def _active(settings: Settings) -> Control | None:
    return _standing(settings, "active")


def test_activate_and_roll_back(connected: Commands, settings: Settings) -> None:
    """Only what is published and has vectors; the record is the one that workers follow; the parent comes back."""
    parent = Stage(settings)
    child = Stage(settings, model_version="m2", parent_version="m1")
    own = f"{settings.topic('item-factors')}.m2"
    assert [(row["model_version"], row["active"]) for row in connected("models", "list", "--json").lines()] == [
        ("m1", ""),
        ("m2", ""),
    ]
    result = connected("models", "activate", "m3")
    assert result.code == 1
    assert "published are: m1, m2" in result.err
    assert _active(settings) is None

    assert connected("models", "activate", "m1").code == 0
    command = _active(settings)
    assert command is not None
    assert (command.command, command.model_version) == ("activate", "m1")
    assert command.item_topic == settings.topic("item-factors")
    assert connected("models", "activate", "m1").code == 1

    _make(settings, own)
    child.publish_items(1, seed=1, topic=own)
    assert connected("models", "activate", "m2", "--json").json() == {"active": "m2", "before": "m1", "item_topic": own}
    assert [row["active"] for row in connected("models", "list", "--json").lines()] == ["", "yes"]
    assert _active(settings).generation  # type: ignore[union-attr]  # its rows are told from those of m1
    result = connected("models", "rollback")
    assert result.code == 1
    assert "no topic holds item vectors of m1" in result.err, "the common topic is m2's by now"
    _make(settings, first := f"{settings.topic('item-factors')}.m1")
    parent.publish_items(1, seed=0, topic=first)
    assert connected("models", "rollback", "--json").json()["active"] == "m1"
    result = connected("models", "rollback")
    assert result.code == 1
    assert "m1 has no parent" in result.err


def test_a_canary_begins_and_ends(connected: Commands, settings: Settings) -> None:
    """Beside the active one, with a topic and a number of its own; activating it, or any other, ends the trial."""
    Stage(settings).activate()
    child = Stage(settings, model_version="m2", parent_version="m1")
    result = connected("models", "canary", "m1")
    assert (result.code, "m1 is active already" in result.err) == (1, True)
    result = connected("models", "canary", "m3")
    assert (result.code, "published are: m1, m2" in result.err) == (1, True)
    assert connected("models", "canary").code == 2
    _make(settings, own := f"{settings.topic('item-factors')}.m2")
    child.publish_items(1, seed=1, topic=own)
    result = connected("models", "canary", "m2", FACTORS_QUALITY__SAMPLE="0")
    assert (result.code, "quality.sample = 0: no event is judged" in result.err) == (2, True)
    assert _standing(settings, "canary") is None
    tried = connected("models", "canary", "m2", "--fraction", "0.25", "--json", FACTORS_QUALITY__SAMPLE="0.01")
    assert tried.json()["fraction"] == 0.25
    command = _standing(settings, "canary")
    assert command is not None
    assert (command.command, command.model_version, command.fraction, command.item_topic) == ("canary", "m2", 0.25, own)
    active = _active(settings)
    assert active is not None
    assert active.model_version == "m1"
    assert connected("models", "canary", "--end").code == 0
    again = connected("models", "canary", "--end")
    assert (again.code, "no canary is running: everybody is served with m1" in again.err) == (1, True)
    assert _standing(settings, "canary") is None
    connected("models", "canary", "m2")
    assert connected("models", "activate", "m2").code == 0
    assert _standing(settings, "canary") is None


def _make(settings: Settings, topic: str) -> None:
    from streamer.commands.cluster import administration

    with administration(settings) as admin:
        admin.create_topics({topic: {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)


def test_a_manifest_without_vectors_is_not_activated(connected: Commands, settings: Settings) -> None:
    """A worker that served it would stop at once."""
    stage = Stage(settings)
    ghost: Manifest = msgspec.structs.replace(stage.manifest, model_version="ghost")
    with producing(settings) as producer:
        producer.send(settings.topic("models"), b"ghost", msgspec.json.encode(ghost))
    result = connected("models", "activate", "ghost")
    assert result.code == 1
    assert "no topic holds item vectors of ghost" in result.err


def test_damaged_manifest_is_exit_code_4(connected: Commands, settings: Settings) -> None:
    """With the place of the record."""
    with producing(settings) as producer:
        producer.send(settings.topic("models"), b"m", b"{}")
    result = connected("models", "list")
    assert result.code == 4
    assert f"{settings.topic('models')}-0 at offset 0 holds no manifest" in result.err


def test_nothing_is_active(connected: Commands) -> None:
    """Commands that need a model say which command makes one."""
    for arguments in (("explain", "user", "u"), ("audit",), ("models", "rollback")):
        result = connected(*arguments)
        assert result.code == 1
        assert "python -m bootstrap run" in result.err


def test_watch_shows_each_revision(connected: Commands, settings: Settings) -> None:
    """The newest one first; an id that nobody published is a no."""
    stage = Stage(settings)
    stage.activate()
    stage.events(*_clicks("ann", "i1"))
    stage.events(*_clicks("ann", "i2", start=1))
    (row,) = connected("watch", "user", "ann", "--seconds", "1", "--json").lines()
    assert (row["id"], row["kind"], row["version"], row["events"]) == ("ann", "user", 2, 2)
    assert len(row["vector"]) == 8
    (row,) = connected("watch", "item", "i3", "--count", "1", "--json").lines()
    assert row["version"] == 1
    assert "version" in connected("watch", "user", "ann", "--count", "1").out
    result = connected("watch", "user", "nobody", "--seconds", "0.5")
    assert result.code == 1
    assert "nothing was published for user nobody" in result.err


def test_explain_adds_up(connected: Commands, settings: Settings) -> None:
    """History, strengths, titles and parts; suppressed items are said."""
    stage = Stage(settings)
    stage.activate()
    stage.events(*_clicks("ann", "i1", "i2", "unheard-of"), *_clicks("bob", "i4"))
    now = time.time_ns() // 1_000_000
    stage.events(event(user_id="ann", item_id="i9", event_type="hide", request_id="h", timestamp=now))
    connected("items", "publish", "-", stdin=b'{"item_id": "i1", "title": "The First"}\n')
    facts = connected("explain", "user", "ann", "--top", "3", "--json").json()
    assert facts["row_is_of_this_model"] is True
    assert facts["stored_vector_differs_by"] < 1e-5
    assert facts["suppressed"] == ["i9"]
    history = {entry["item_id"]: entry for entry in facts["history"]}
    assert set(history) == {"i1", "i2", None}
    assert history["i1"]["title"] == "The First"
    assert history[None]["adds"] == 0.0
    assert history["i1"]["strength"] == pytest.approx(1.0, abs=1e-3)
    for place, item in enumerate(facts["top_items"]):
        parts = sum(entry["adds_to"][place] for entry in facts["history"])
        assert parts == pytest.approx(item["score"], abs=1e-5)
    text = connected("explain", "user", "ann")
    assert "confidence c = 1 + 5 * log1p(r)" in text.err
    assert "The First" in text.out
    result = connected("explain", "user", "nobody")
    assert result.code == 1
    assert "user nobody has no row" in result.err


def test_audit_agrees_with_the_step(connected: Commands, settings: Settings) -> None:
    """Items stand still: within 1e-5; also for a user who knows no item, who has the average vector."""
    stage = Stage(settings)
    stage.activate()
    stage.events(*_clicks("ann", "i1", "i2"), *_clicks("bob", "i3"), *_clicks("cem", "unheard-of"))
    report = connected("audit", "--json").json()
    assert (report["users"], report["items_standing_still"]) == (3, 3)
    assert report["largest_error"] < 1e-6
    assert connected("audit").code == 0
    assert connected("audit", "--sample", "2", "--json").json()["users"] == 2
    # The same vectors once more, as an item step with a rate of 0 sends them: nothing has moved.
    stage.publish_items(2, seed=0)
    assert connected("audit", "--json").json()["items_standing_still"] == 3


def test_audit_knows_what_is_published(connected: Commands, settings: Settings) -> None:
    """Session, segment, blend and a ridge of one's own: what a reader gets is a fresh computation's, and no row's."""
    options: dict[str, Any] = {"session_weight": 0.3, "blend_events": 5, "segment_key": "device", "ridge_nu": 0.5}
    stage = Stage(settings, Policy(**options, ridge_alpha0=0.1), segments={"phone": [2.0] * 8})
    stage.activate()
    phone = [body | {"context": {"device": "phone"}} for body in _clicks("bob", "i3")]
    stage.events(*_clicks("ann", *(f"i{n}" for n in range(6))), *phone, *_clicks("cem", "unheard-of"))
    report = connected("audit", "--json").json()
    assert report["items_standing_still"] == 3
    assert report["largest_error"] < 1e-6
    with FactorReader(settings.kafka.bootstrap_servers, settings.kafka.prefix, "user") as reader:
        found = reader.snapshot()
    assert {user: factor.basis for user, factor in found.items()} == {
        "ann": "history",
        "bob": "blend",
        "cem": "average",
    }
    assert [found[user].session is not None for user in ("ann", "bob", "cem")] == [True, True, False]
    stage.spoil("bob")
    assert connected("audit").code == 1


def test_audit_reports_moved_items_apart(connected: Commands, settings: Settings) -> None:
    """A user solved before the items moved is no error; one solved after it is held to 1e-5."""
    stage = Stage(settings)
    stage.activate()
    stage.events(*_clicks("ann", "i1"), *_clicks("bob", "i3"))
    stage.publish_items(2, seed=5)
    stage.events(*_clicks("bob", "i4", start=1))
    report = connected("audit", "--json").json()
    assert (report["items_standing_still"], report["items_moved_since"]) == (1, 1)
    assert report["largest_error"] < 1e-5
    assert report["largest_difference_where_moved"] > 1e-3
    assert (report["status"], report["farthest_user"]) == ("exact", "ann")
    stage.publish_items(3, seed=6)
    quiet = connected("audit", "--json")
    assert (quiet.code, quiet.json()["status"]) == (0, "not_judged")


def test_audit_finds_a_wrong_vector(connected: Commands, settings: Settings) -> None:
    """Exit code 1, and the user's name."""
    stage = Stage(settings)
    stage.activate()
    stage.events(*_clicks("ann", "i1"), *_clicks("bob", "i3"))
    stage.spoil("bob")
    result = connected("audit", "--json")
    assert result.code == 1
    assert result.json()["largest_error"] > 0.01
    assert "at user bob" in result.err
