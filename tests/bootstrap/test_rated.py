"""Ratings end to end in the batch job: planted ones are found again, kept, and read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import orjson
import pytest

from bootstrap import artifact
from bootstrap.columns import columns_of
from bootstrap.job import Lineage, Source, lineage, make, recipe
from bootstrap.quality import judged
from bootstrap.rated import examine, ratings_of
from bootstrap.records import Writer
from bootstrap.search import search
from schemas.layouts import RowShape, decode_user_rows
from schemas.records import FactorRecord, Manifest
from streamer.errors import CheckFailed, ConfigError, DataError
from streamer.events.read import Reader
from streamer.factors.explicit import solve_ratings
from streamer.steps.items import Items
from streamer.steps.user import UserStep
from tests.bootstrap.planted import EXPLICIT, ITEMS, USERS, planted, rated
from tests.bootstrap.small import KEY, NOW_MS, Made, Reading, event, quiet, settings_of
from tests.streamer.steps.world import TOPICS, record, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module", params=["als", "sgd"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("rated")
    more = {"FACTORS_BOOTSTRAP__ITERATIONS": "15"}
    if request.param == "sgd":
        more = {
            "FACTORS_BOOTSTRAP__ITERATIONS": "120",
            "FACTORS_BOOTSTRAP__RATE": "0.03",
            "FACTORS_BOOTSTRAP__REG_USERS": "0.01",
            "FACTORS_BOOTSTRAP__REG_ITEMS": "0.01",
        }
    settings = settings_of(folder, **EXPLICIT, **more, FACTORS_BOOTSTRAP__OBJECTIVE=request.param)
    log = Reading(folder)(*planted(NOW_MS), policy=settings.policy)
    manifest, model = make(settings, log, Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
    return Made(artifact.write(str(folder / "kept"), manifest, model), model, log, folder)


def test_planted_ratings_are_foretold(made: Made) -> None:
    """Better than biases alone, solved anew better than frozen, and every gate passes."""
    metrics = made.manifest.metrics
    assert metrics["scored_events"] > 200
    assert metrics["rmse"] < 0.5 * metrics["biases_rmse"] < 0.8 * metrics["mean_rmse"]
    assert metrics["rmse"] < metrics["frozen_rmse"]
    assert all(gate.passed for gate in made.manifest.gates)
    names = {gate.name for gate in made.manifest.gates}
    assert {"rmse", "parity_error"} <= names
    assert "recall" not in names


def test_the_manifest_says_what_it_is(made: Made) -> None:
    """Algorithm, mean, ridges; and it reads back."""
    manifest = made.manifest
    assert manifest.algorithm in {"explicit-als", "explicit-sgd"}
    assert manifest.policy.feedback == "explicit"
    assert manifest.global_mean == pytest.approx(3.0, abs=0.3)
    assert manifest.width == manifest.dimension + 1 == len(manifest.average_row)
    assert manifest.hyperparameters["ridge_bias"] == 0.5
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest


def test_the_artifact_keeps_biases_apart_and_gives_them_back(made: Made) -> None:
    """Vectors of k numbers in one file, biases in another; read back, they are rows again."""
    manifest, model = artifact.open_artifact(made.manifest.artifact.uri)
    assert {"item_bias.npy", "user_bias.npy"} <= set(manifest.artifact.files)
    assert model.items.shape == (ITEMS, 4)
    assert np.array_equal(model.items, made.model.items)
    assert np.array_equal(model.user_vectors, made.model.user_vectors)
    assert np.array_equal(model.average_user, made.model.average_user)
    assert model.mean == made.model.mean


def test_users_are_solved_as_the_stream_solves_them(made: Made) -> None:
    """Each row is the stream's function over the history that the artifact keeps."""
    model, policy = made.model, made.manifest.policy
    columns, _ = columns_of(made.log, policy, KEY)
    number = {int(columns.hashes[columns.item_ids.index(name)]): row for row, name in enumerate(model.item_ids)}
    entry = np.array([number[one] for one in model.users.item.tolist()], np.int32)
    ratings = ratings_of(model.users, entry, len(model.item_ids), policy)
    assert model.mean is not None
    for user in range(USERS):
        mine = slice(model.users.history_start[user], model.users.history_start[user + 1])
        again = solve_ratings(model.items[entry[mine]], ratings.rating[mine], ratings.weight[mine], model.mean, policy)
        assert np.array_equal(again, model.user_vectors[user])


def test_the_stream_makes_the_same_rows_of_the_same_log(made: Made) -> None:
    """Event by event through the user step: vector and bias within 1e-5 of the published ones, histories the same."""
    model, manifest = made.model, made.manifest
    view = Items(dimension=manifest.width, ridge=1.0, item_key=KEY, partitions=1)
    view.put(model.item_ids, [1] * len(model.item_ids), model.items)
    view.settle()
    reader = Reader(manifest.policy, tenant=None, max_bytes=65_536, invalid_items=())
    step = UserStep(manifest, view, TOPICS, reader, solver="cg", tolerance=1e-6, encoding="json", source="test")
    records = [record(at, one, timestamp=one["timestamp"] + 1_000) for at, one in enumerate(planted(NOW_MS))]
    rows = dict[bytes, bytes]()
    run(step, records, [*range(0, len(records), 97)], rows)
    shape = RowShape(manifest.width, manifest.policy.history_capacity, manifest.policy.keys_capacity, 1)
    streamed = decode_user_rows([rows[user.encode()] for user in model.users.ids], shape)
    assert np.abs(streamed.vector - model.user_vectors).max() <= 1e-5
    for user, first in enumerate(model.users.history_start[:-1].tolist()):
        last = int(model.users.history_start[user + 1])
        assert np.array_equal(streamed.strength[user, : last - first], model.users.strength[first:last])


@pytest.mark.parametrize("encoding", ["json", "f32le"])
def test_records_carry_vector_and_bias(made: Made, encoding: Any) -> None:
    """K numbers in the vector, the bias beside them."""
    row = made.model.items[0]
    sent = Writer("test", "m", 1, encoding, biased=True).item("i0", row, 7)
    about = orjson.loads(sent.value if encoding == "json" else dict(sent.headers)["factors.record"])
    vector = about.get("vector") or np.frombuffer(sent.value, "<f4").tolist()
    assert np.array_equal(np.array(vector, np.float32), row[:-1])
    assert np.float32(about["bias"]) == row[-1]
    assert about["dimension"] == 3
    msgspec.convert({**about, "vector": vector}, FactorRecord)


def test_a_newer_rating_replaces_the_older_one(reading: Reading, tmp_path: Path) -> None:
    """In the batch's histories: not a sum, whatever the order of arrival."""
    settings = settings_of(tmp_path, **EXPLICIT)
    events = [
        event("u", "i", "watch_complete", NOW_MS - 10, value=2.0),
        event("u", "i", "watch_complete", NOW_MS - 5, value=4.5),
        event("u", "i", "watch_complete", NOW_MS - 7, value=1.0),
    ]
    for order in (events, events[::-1]):
        log = reading(*order, policy=settings.policy)
        _, model = make(settings, log, Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
        assert model.users.strength.tolist() == [4.5]
        assert model.users.time.tolist() == [NOW_MS - 5]


def test_a_rating_that_is_taken_back_counts_no_more_in_the_replay(reading: Reading, tmp_path: Path) -> None:
    """The rating itself is foretold; the user's next one is foretold as if it had never been."""
    settings, at = settings_of(tmp_path, **EXPLICIT), NOW_MS - 10

    def error(*last: dict[str, Any]) -> float:
        columns, _ = columns_of(reading(*planted(NOW_MS - 100), *last, policy=settings.policy), settings.policy, KEY)
        found = examine(columns, recipe(settings), quiet)
        assert found is not None
        return found[1]["rmse"] ** 2 * found[1]["scored_events"]

    first, back, second = rated(0, 0, 60.0, at), event("u0", "i0", "return", at + 1), rated(0, 1, 3.0, at + 2)
    hides = [event("u1", "i1", "hide", at + number) for number in range(3)]
    one, other, none = error(first, *hides[1:]), error(*hides[:2], second), error(*hides)
    assert error(first, back, second) == pytest.approx(one + other - none, abs=1e-4)
    assert error(first, hides[1], second) != pytest.approx(one + other - none, abs=1e-2)


def test_ratings_are_not_searched_by_rankings(reading: Reading, tmp_path: Path) -> None:
    """Said in a sentence."""
    settings = settings_of(tmp_path, **EXPLICIT)
    columns, _ = columns_of(reading(*planted(NOW_MS)[:50], policy=settings.policy), settings.policy, KEY)
    with pytest.raises(CheckFailed, match="rankings"):
        search(columns, recipe(settings), trials=1, journal=tmp_path / "j", seed=0, metric="ndcg", show=quiet)


def test_a_second_generation_is_turned_towards_the_first(made: Made, tmp_path: Path) -> None:
    """The vectors, not the biases; what is foretold stays, and the manifest says what came of it."""
    objective = made.manifest.algorithm.removeprefix("explicit-")
    settings = settings_of(tmp_path, **EXPLICIT, FACTORS_BOOTSTRAP__OBJECTIVE=objective, FACTORS_BOOTSTRAP__SEED="3")
    plain, unturned = make(settings, made.log, Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
    source = Source(None, parent=made.manifest.artifact.uri)
    heritage = lineage(settings, source, lambda size: b"", ask_topics=False)
    assert heritage.start is None
    manifest, turned = make(settings, made.log, heritage, now_ms=NOW_MS, show=quiet)
    assert plain.alignment is None
    assert manifest.alignment is not None
    assert (manifest.alignment.parent_version, manifest.alignment.items) == (made.manifest.model_version, ITEMS)
    before, after = (np.linalg.norm((one.items - made.model.items)[:, :-1]) for one in (unturned, turned))
    assert after < before
    assert np.array_equal(turned.items[:, -1], unturned.items[:, -1])
    assert np.abs(turned.user_vectors[:, -1] - unturned.user_vectors[:, -1]).max() < 1e-4
    told = [one.user_vectors[:, :-1] @ one.items[:, :-1].T for one in (unturned, turned)]
    assert np.abs(told[0] - told[1]).max() < 1e-4
    assert manifest.user_gramian is None


def test_a_warm_start_begins_with_the_biases_too(made: Made, tmp_path: Path) -> None:
    """The parent's rows, k + 1 numbers each; another feedback cannot begin with them."""
    source = Source(None, parent=made.manifest.artifact.uri, warm_start=True)
    heritage = lineage(settings_of(tmp_path, **EXPLICIT), source, lambda size: b"", ask_topics=False)
    assert heritage.start is not None
    assert heritage.items is not None
    row = made.model.items[0]
    assert np.array_equal(heritage.start[made.model.item_ids[0]], row)
    assert np.array_equal(heritage.items[made.model.item_ids[0]], row[:-1])
    with pytest.raises(DataError, match="a warm start needs the same"):
        lineage(settings_of(tmp_path, FACTORS_BOOTSTRAP__DIMENSION="3"), source, lambda size: b"", ask_topics=False)


def test_an_evaluation_holds_ratings_to_the_gates(made: Made, tmp_path: Path) -> None:
    """Error, norms and coverage; what asks for a ranking is said to be left out."""
    settings = settings_of(tmp_path, **EXPLICIT, FACTORS_GATES__RMSE_OVER_BIASES="0.01")
    heritage = Lineage(KEY, "m0", parent_url=made.manifest.artifact.uri)
    found = judged(settings, made.log, recipe(settings), heritage, quiet)
    assert found.examined is None
    assert found.metrics["item_norm_median"] > 0
    assert found.metrics["item_coverage"] == 1.0
    assert [gate.name for gate in found.gates if not gate.passed] == ["rmse"]
    assert found.remarks == ["not compared with m0: ratings are compared with biases alone"]


def test_content_and_moving_items_are_of_rankings(tmp_path: Path) -> None:
    """Said as a mistake of the configuration."""
    with pytest.raises(ConfigError, match=r"bootstrap\.content = true needs"):
        recipe(settings_of(tmp_path, **EXPLICIT, FACTORS_BOOTSTRAP__CONTENT="true"))
    with pytest.raises(ConfigError, match="--items-online needs"):
        recipe(settings_of(tmp_path, **EXPLICIT), items_online=True)


@pytest.mark.parametrize(("objective", "feedback"), [("sgd", "implicit"), ("bpr", "explicit")])
def test_objective_and_feedback_must_fit(objective: str, feedback: str, tmp_path: Path) -> None:
    """Said as a mistake of the configuration."""
    settings = settings_of(tmp_path, FACTORS_BOOTSTRAP__OBJECTIVE=objective, FACTORS_POLICY__FEEDBACK=feedback)
    with pytest.raises(ConfigError, match=r"needs policy\.feedback"):
        recipe(settings)
