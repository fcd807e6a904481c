"""The demo on made-up data: it ends well, and without an items worker it says what is missing."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from ops.broker import FoundBroker
from ops.data import load
from ops.demo import act
from ops.demo.errors import DemoError
from ops.demo.report import show
from ops.demo.story import Row
from ops.demo.world import Process, World, wait_ready
from streamer.reader import Factor


def play(broker: FoundBroker, prefix: str, folder: Path) -> tuple[act.Story, str]:
    """Run the demo's course below a prefix; the story and what it printed."""
    said = io.StringIO()
    out = Console(file=said, width=140)
    with World(broker.bootstrap_servers, prefix, folder) as world:
        story = act.Act(world, load("synthetic", seed=3), out, live=3_000, rate=1_500).play()
    show(out, story, 1.0)
    assert all(process.popen.poll() is not None for process in world.processes), "a process was left running"
    return story, said.getvalue()


def test_vectors_change_as_they_must(broker: FoundBroker, prefix: str, tmp_path: Path) -> None:
    """Every event is accounted for, the new person comes nearer to what they click, item vectors move."""
    story, said = play(broker, prefix, tmp_path)
    assert sum(story.outcomes.values()) == story.sent == 3_003
    assert story.moved > 0
    assert story.mean_move > 0
    mine = [row for row in story.rows if row.user == act.YOU]
    assert len(mine) == 3
    assert mine[0].after > mine[0].before
    assert "event to vector" in said
    assert all(row.title in said.replace("\n", " ") or len(row.title) > 20 for row in mine)


def test_without_an_items_worker_it_fails(
    broker: FoundBroker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin that shows the demo can fail: the items worker is killed once it is ready."""
    start = World.start_worker

    def start_and_kill(self: World, role: str) -> Process:
        worker = start(self, role)
        if role == "items":
            wait_ready(worker)
            worker.popen.kill()
            monkeypatch.setattr(act, "wait_ready", lambda other: 0.0 if other is worker else wait_ready(other))
        return worker

    monkeypatch.setattr(World, "start_worker", start_and_kill)
    monkeypatch.setattr(act, "_SETTLE_SECONDS", 12.0)
    with pytest.raises(DemoError, match="no item vector moved"):
        play(broker, prefix, tmp_path)


def test_with_an_items_worker_killed_on_the_way_it_fails(
    broker: FoundBroker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Item vectors that moved before do not make up for it."""
    look = act.Act._known_rows

    def kill_and_look(self: act.Act, people: dict[str, Factor]) -> list[Row]:
        for process in self._world.processes:
            if "items" in process.name:
                process.popen.kill()
        return look(self, people)

    monkeypatch.setattr(act.Act, "_known_rows", kill_and_look)
    with pytest.raises(DemoError, match=r"items.* ended before the demo did"):
        play(broker, prefix, tmp_path)
