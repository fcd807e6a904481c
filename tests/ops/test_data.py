"""The data sets of the demo and the tests: in order, of the contract's shape, the same for the same seed."""

from __future__ import annotations

import hashlib
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from typer.testing import CliRunner

from ops.data import CACHE, load, movielens, synthetic
from ops.data.__main__ import app
from ops.data.dataset import Dataset, DataUnavailableError, write_ndjson

if TYPE_CHECKING:
    from pathlib import Path

SMALL = synthetic.Shape(users=40, items=200, events=600, factors=4, days=10)


@pytest.fixture(scope="module")
def films() -> Dataset:
    """MovieLens-100K, or a skip that says why."""
    try:
        return movielens.load(CACHE)
    except DataUnavailableError as reason:
        pytest.skip(f"MovieLens-100K cannot be had: {reason}")


def keys(data: Dataset) -> list[tuple[Any, ...]]:
    return [(event["timestamp"], event["user_id"], event["item_id"]) for event in data.events]


def test_movielens_has_the_liked_ratings_in_time_order(films: Dataset) -> None:
    """55,375 of the 100,000 ratings are 4 or 5; the titles and genres of all 1,682 films come along."""
    assert len(films.events) == 55_375
    assert {event["event_type"] for event in films.events} == {"like"}
    times = [event["timestamp"] for event in films.events]
    assert times == sorted(times)
    assert len({event["request_id"] for event in films.events}) == len(films.events)
    assert len(films.items) == 1_682
    assert films.items[0]["title"] == "Toy Story (1995)"
    assert films.items[0]["attributes"]["genres"] == ["Animation", "Children's", "Comedy"]


def test_events_of_one_second_are_ordered_by_user_and_item(films: Dataset) -> None:
    """Three of four events share their second with another of the user: the tie-break makes the order whole."""
    numbers = [(event["timestamp"], int(event["user_id"][5:]), int(event["item_id"][5:])) for event in films.events]
    assert numbers == sorted(numbers)


def test_a_wheel_of_another_sum_is_refused(tmp_path: Path) -> None:
    """What is in the cache is checked at every read, not only after the download."""
    with zipfile.ZipFile(tmp_path / movielens.WHEEL, "w") as wheel:
        wheel.writestr(movielens.FOLDER + "ml-100k.inter", "user_id\n")
    with pytest.raises(DataUnavailableError, match="not the pinned"):
        movielens.load(tmp_path)


def test_a_member_of_another_sum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data are pinned by themselves, whatever the envelope."""
    path = tmp_path / movielens.WHEEL
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(movielens.FOLDER + "ml-100k.inter", "user_id\n")
    monkeypatch.setattr(movielens, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(DataUnavailableError, match=r"ml-100k\.inter"):
        movielens.load(tmp_path)


@pytest.mark.slow
def test_auto_falls_back_to_made_up_data_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the network the demo still runs, and its reader is told."""

    def no_network(folder: Path) -> None:
        raise DataUnavailableError("no route to the index")

    monkeypatch.setattr(movielens, "_download", no_network)
    data = load("auto", cache=tmp_path)
    assert data.name == "synthetic"
    assert "no route to the index" in data.note
    with pytest.raises(DataUnavailableError):
        load("movielens", cache=tmp_path)


def test_made_up_data_are_the_same_for_a_seed_and_differ_between_seeds() -> None:
    """A seed names one set of events, to the byte."""
    first, again, other = (orjson.dumps(synthetic.load(seed, SMALL).events) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_made_up_data_are_ordered_unique_and_complete() -> None:
    """As many events as asked for, in time order, no (user, item) twice, every item in the catalogue."""
    data = synthetic.load(1, SMALL)
    assert len(data.events) == SMALL.events
    times = [event["timestamp"] for event in data.events]
    assert times == sorted(times)
    pairs = {(event["user_id"], event["item_id"]) for event in data.events}
    assert len(pairs) == len(data.events)
    assert {event["item_id"] for event in data.events} <= {item["item_id"] for item in data.items}
    assert len({item["title"] for item in data.items}) == SMALL.items


def test_made_up_choices_follow_the_planted_taste() -> None:
    """Chosen items agree with the user's planted direction more than chance does."""
    planted, data = synthetic.plant(1, SMALL), synthetic.load(1, SMALL)
    chosen = np.array([(int(e["user_id"][5:]), int(e["item_id"][5:])) for e in data.events])
    agreement = np.einsum("nk,nk->n", planted.taste_first[chosen[:, 0]], planted.items[chosen[:, 1]])
    chance = planted.taste_first @ planted.items.T
    assert agreement.mean() > chance.mean() + 0.1


def test_rebase_moves_all_times_alike() -> None:
    """The newest event lands on the given time, and no distance between two events changes."""
    data = synthetic.load(2, SMALL)
    moved = data.rebase(1_800_000_000_000)
    assert moved.events[-1]["timestamp"] == 1_800_000_000_000
    before = np.diff([event["timestamp"] for event in data.events])
    assert np.array_equal(before, np.diff([event["timestamp"] for event in moved.events]))
    assert [key[1:] for key in keys(moved)] == [key[1:] for key in keys(data)]
    assert Dataset("empty", (), ()).rebase(5).events == ()


def test_split_cuts_in_log_order() -> None:
    """The two sides together are the events, in order."""
    data = synthetic.load(2, SMALL)
    before, after = data.split(0.25)
    assert len(before) == 150
    assert before + after == data.events


def test_ndjson_has_one_object_a_line(tmp_path: Path) -> None:
    """What is written can be read line by line, and nothing is left aside."""
    data = synthetic.load(2, SMALL)
    assert write_ndjson(tmp_path / "a" / "events.ndjson", data.events) == SMALL.events
    lines = (tmp_path / "a" / "events.ndjson").read_bytes().splitlines()
    assert tuple(orjson.loads(line) for line in lines) == data.events
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["events.ndjson"]


@pytest.mark.slow
def test_command_writes_three_files(tmp_path: Path) -> None:
    """``python -m ops.data`` writes both sides of the cut and the catalogue, and counts them."""
    arguments = [
        "--out",
        str(tmp_path),
        "--source",
        "synthetic",
        "--split",
        "0.25",
        "--end",
        "2026-11-21T00:00:00Z",
    ]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0
    said = orjson.loads(done.stdout)
    assert said["before"] + said["after"] == synthetic.Shape().events
    last = (tmp_path / "after.ndjson").read_bytes().splitlines()[-1]
    assert orjson.loads(last)["timestamp"] == 1_795_219_200_000
    assert CliRunner().invoke(app, ["--out", str(tmp_path), "--end", "yesterday"]).exit_code == 4


def test_times_can_be_squeezed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly, in order, up to the same end; what is short enough stays as it is."""
    data = synthetic.load(0, synthetic.Shape(users=5, items=5, events=60))
    last = data.events[-1]["timestamp"]
    short = data.squeezed(6 * 86_400_000)
    times = [event["timestamp"] for event in short.events]
    assert (times[0], times[-1]) == (last - 6 * 86_400_000, last)
    assert times == sorted(times)
    assert short.squeezed(7 * 86_400_000) is short
    monkeypatch.setattr("ops.data.__main__.load", lambda *_, **__: data)
    arguments = ["--out", str(tmp_path), "--end", "2026-11-21T00:00:00Z", "--span"]
    assert CliRunner().invoke(app, [*arguments, "6d"]).exit_code == 0
    first = (tmp_path / "before.ndjson").read_bytes().splitlines()[0]
    assert orjson.loads(first)["timestamp"] == 1_795_219_200_000 - 6 * 86_400_000
    assert CliRunner().invoke(app, [*arguments, "6"]).exit_code == 4


def test_ratings_are_the_values_of_events() -> None:
    """All of them, where the likes are only the best; in time order."""
    lines = [["1", "2", "5.0", "10"], ["1", "3", "2.0", "5"]]
    events = movielens._events(lines, least=0.0, kind="watch_complete", with_value=True)
    assert [(one["item_id"], one["event_type"], one["value"]) for one in events] == [
        ("film-3", "watch_complete", 2.0),
        ("film-2", "watch_complete", 5.0),
    ]
    assert [(one["item_id"], "value" in one) for one in movielens._events(lines)] == [("film-2", False)]
