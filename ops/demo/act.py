"""The demo's course: topics, model, workers, live events, one new person; each step checks what it must."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from ops.data import Dataset, write_ndjson
from ops.demo.errors import DemoError
from ops.demo.send import Sender
from ops.demo.story import Films, Row, Vector, latencies, notes, three_films, wait_for_note
from ops.demo.world import World, outcomes, wait_ready
from streamer.factors.coldstart import average_user
from streamer.reader import Factor, FactorReader

YOU = "you"
_SETTLE_SECONDS = 30.0
_KNOWN_ROWS = 3


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that the report shows."""

    rows: list[Row]
    outcomes: dict[str, int]
    sent: int
    send_seconds: float
    latency: npt.NDArray[np.float64]
    items: int
    moved: int
    mean_move: float


class Act:
    """See the module docstring."""

    def __init__(self, world: World, data: Dataset, out: Console, *, live: int, rate: float) -> None:
        self._world, self._out, self._rate = world, out, rate
        data = data.rebase(time.time_ns() // 1_000_000)
        self._note, self._name = data.note, data.name
        self._before, later = data.split(0.5)
        self._live = later[:live] if live else later
        self._catalogue = data.items

    def play(self) -> Story:
        """The whole demo.

        Raises:
            DemoError: something did not become as it must.
        """
        world = self._world
        self._prepare()
        users, items = world.start_worker("users"), world.start_worker("items")
        seconds = max(wait_ready(users), wait_ready(items))
        self._out.print(f"[bold]4[/] workers: users and items, ready in {seconds:.1f} s")
        arrived = world.folder / "arrived.ndjson"
        world.start("measure", ["-m", "ops.demo.measure", world.servers, world.prefix, str(arrived)])
        self._wait(lambda: bool(notes(arrived)), "the measuring consumer did not start")
        people, films = self._vectors("user"), self._vectors("item")
        sender = Sender(world.servers, f"{world.prefix}interactions")
        try:
            took = sender.send(self._live, self._rate)
            self._wait(
                lambda: sum(outcomes(users).values()) >= len(self._live), "the live events were not all accounted for"
            )
            self._out.print(f"[bold]5[/] live: {len(self._live):,} events sent in {took:.1f} s")
            live_latency = latencies(arrived, sender.sent)
            rows = self._known_rows(people)
            rows += self._new_person(sender, people, films)
        finally:
            sender.close()
        moved, mean_move = self._moved_items(films)
        for worker in (users, items):
            if worker.popen.poll() is not None:
                raise DemoError(
                    f"the worker {worker.name} ended before the demo did; its last words are in {worker.log}"
                )
        counted = outcomes(users)
        total = len(self._live) + 3
        if sum(counted.values()) != total:
            raise DemoError(f"{total} events were sent, but {sum(counted.values())} outcomes were counted: {counted}")
        return Story(rows, counted, total, took, live_latency, len(films), moved, mean_move)

    def _prepare(self) -> None:
        world, out = self._world, self._out
        if self._note:
            out.print(f"  {self._note}.", style="dim")
        out.print(
            f"[bold]2[/] data: {self._name}, {len(self._before):,} events to train on, {len(self._live):,} to send live"
        )
        write_ndjson(world.folder / "before.ndjson", self._before)
        write_ndjson(world.folder / "items.ndjson", self._catalogue)
        world.command("streamer", "topics", "create")
        world.command("streamer", "items", "publish", str(world.folder / "items.ndjson"))
        began = time.monotonic()
        world.command("bootstrap", "run", "--events", str(world.folder / "before.ndjson"), quiet=not out.is_terminal)
        out.print(f"[bold]3[/] model: trained, evaluated and published in {time.monotonic() - began:.1f} s")

    def _vectors(self, kind: Any) -> dict[str, Factor]:
        with FactorReader(self._world.servers, self._world.prefix, kind) as reader:
            return reader.snapshot()

    def _films(self) -> Films:
        now = {item: one.vector for item, one in self._vectors("item").items() if one.vector is not None}
        return Films(now, {item["item_id"]: item["title"] for item in self._catalogue})

    def _known_rows(self, before: dict[str, Factor]) -> list[Row]:
        """A few people of the model who were active again, with their last click."""
        after, films = self._vectors("user"), self._films()
        known = set(self._vectors("item"))
        rows: list[Row] = []
        for event in reversed(self._live):
            user, item = event["user_id"], event["item_id"]
            if user in before and item in known and all(row.user != user for row in rows):
                old, new = before[user].vector, after[user].vector
                if old is None or new is None or np.array_equal(old, new):
                    raise DemoError(f"the vector of user {user} did not change although they acted")
                seen = {
                    one["item_id"] for events in (self._before, self._live) for one in events if one["user_id"] == user
                }
                rows.append(films.row(user, item, old, new, seen, float("nan")))
                if len(rows) == _KNOWN_ROWS:
                    break
        return rows

    def _new_person(self, sender: Sender, people: dict[str, Factor], items: dict[str, Factor]) -> list[Row]:
        """One person whom nobody knows, an average user so far, clicks three films of one genre."""
        genres = {item["item_id"]: (item.get("attributes") or {}).get("genres", ()) for item in self._catalogue}
        chosen = three_films(self._live, self._before, genres, set(items))
        arrived = self._world.folder / "arrived.ndjson"
        vector: Vector = average_user(np.stack([one.vector for one in people.values() if one.vector is not None]))
        rows: list[Row] = []
        for number, item in enumerate(chosen, 1):
            at = time.time_ns() // 1_000_000
            click = {"request_id": f"demo-{number}", "user_id": YOU, "item_id": item, "event_type": "like"}
            sender.send([{**click, "timestamp": at}], self._rate)
            note = wait_for_note(arrived, "user", YOU, number)
            new = self._vectors("user")[YOU].vector
            films = self._films()
            if new is None or np.array_equal(new, vector):
                raise DemoError(f"the new person's vector did not change at click {number}")
            row = films.row(YOU, item, vector, new, set(chosen[:number]), note["at"] - sender.sent[note["source"]])
            if row.after <= row.before and number == 1:
                raise DemoError(f"the new person did not come nearer to {row.title}")
            rows.append(row)
            vector = new
        return rows

    def _moved_items(self, before: dict[str, Factor]) -> tuple[int, float]:
        """How many item vectors the item worker has moved, and how far on average (one minus the cosine)."""
        sums: Sequence[float] = ()
        deadline = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline and not sums:
            now = self._vectors("item")
            sums = [_turn(before[item], one) for item, one in now.items() if item in before and one.version > 1]
        if not sums:
            raise DemoError(
                f"no item vector moved within {_SETTLE_SECONDS:.0f} s of the live events: is the items worker running?"
            )
        return len(sums), float(np.mean(sums))

    def _wait(self, condition: Any, otherwise: str) -> None:
        deadline = time.monotonic() + _SETTLE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise DemoError(f"{otherwise} within {_SETTLE_SECONDS:.0f} s")
            time.sleep(0.05)


def _turn(old: Factor, new: Factor) -> float:
    assert old.vector is not None
    assert new.vector is not None
    norms = float(np.linalg.norm(old.vector) * np.linalg.norm(new.vector))
    return 1.0 - float(old.vector @ new.vector) / max(norms, 1e-12)
