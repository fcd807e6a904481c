"""`--engine spark` on a real Spark of two threads: the same objective, as good a model, the same artifact."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from bootstrap import artifact, spark
from bootstrap import session as sessions
from bootstrap.als import Training
from bootstrap.artifact import open_artifact
from bootstrap.engine import Engine
from bootstrap.job import Lineage, make
from bootstrap.session import expect_installed, session
from streamer.errors import ConfigError, FactorsError
from tests.bootstrap.small import KEY, NOW_MS, quiet, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bootstrap.small import Made

MASTER = "local[2]"
# NDCG@10 of the two engines on the same log: the ridge of rows that are not of mean length differs.
NEAR = 0.02


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Spark for all tests of this file; they find it as a caller's own session."""
    try:
        expect_installed()
    except ConfigError as missing:
        pytest.skip(str(missing))
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("spark")
        patch.setattr(sessions, "_folder", lambda: folder)
        # The quick compiler alone: these fits are over before the slow one pays.
        patch.setenv(
            "PYSPARK_SUBMIT_ARGS", "--driver-java-options '-XX:TieredStopAtLevel=1 -XX:+UseSerialGC' pyspark-shell"
        )
        with session(MASTER) as spark_session:
            yield spark_session


@pytest.mark.slow
def test_the_last_half_step_solves_the_equation_of_the_formula(running: Any) -> None:
    """(Y'Y + ρ n_u I + sum (c - 1) y y') x = sum c y, in float64, for rows of any length, one pair faded to c = 1."""
    draw = np.random.default_rng(1)
    by_item = csr_array((draw.random((30, 50)) < 0.2) * (1 + 5 * draw.random((30, 50))))
    by_item.data[3] = 1.0
    ridge, training = 0.7, Training(3, 2, 0, 1.0, "c")
    model = spark.train(running, by_item, training, ridge)
    y = spark.vectors(model.itemFactors, 30, 3).astype(np.float64)
    by_user = csr_array(by_item.T.tocsr())
    expected = np.zeros((50, 3))
    # MLlib ends with the users.
    for user in range(50):
        part = slice(by_user.indptr[user], by_user.indptr[user + 1])
        c, seen = by_user.data[part], y[by_user.indices[part]]
        system = y.T @ y + ridge * len(c) * np.eye(3) + (seen.T * (c - 1)) @ seen
        expected[user] = np.linalg.solve(system, seen.T @ c)
    np.testing.assert_allclose(spark.vectors(model.userFactors, 50, 3), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_both_engines_agree(made: Made, tmp_path: Path) -> None:
    """NDCG within the stated bound, and an artifact and manifest that differ in values alone."""
    settings = settings_of(tmp_path, FACTORS_BOOTSTRAP__SPARK_MASTER=MASTER)
    manifest, model = make(settings, made.log, Lineage(KEY, None), now_ms=NOW_MS, show=quiet, engine=Engine.SPARK)
    native = made.manifest
    assert manifest.metrics["ndcg"] == pytest.approx(native.metrics["ndcg"], abs=NEAR)
    assert manifest.metrics["ndcg"] > 1.5 * manifest.metrics["popularity_ndcg"]
    assert manifest.metrics["parity_error"] < 1e-5
    assert manifest.hyperparameters["engine"] == "spark"
    same = {name: getattr(native, name) for name in ("policy", "counts", "item_key", "dataset_sha256", "dimension")}
    assert same == {name: getattr(manifest, name) for name in same}
    assert [gate.name for gate in manifest.gates] == [gate.name for gate in native.gates]
    assert shapes(artifact.files_of(model)) == shapes(artifact.files_of(made.model))
    assert model.item_ids == made.model.item_ids
    written = artifact.write(str(tmp_path), manifest, model)
    again, opened = open_artifact(written.artifact.uri)
    assert again == written
    np.testing.assert_array_equal(opened.items, model.items)
    # Not the native vectors under another name.
    assert not np.allclose(model.items, made.model.items, atol=0.05)


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_what_fails_in_spark_is_one_sentence() -> None:
    """Never a stack trace of two languages; and a caller's own session goes on."""
    with pytest.raises(FactorsError, match=r"^Spark at local\[2\] failed: .*nowhere"), session(MASTER) as mine:
        mine.sql("select * from nowhere")
    with session(MASTER) as still:
        assert still is mine


def shapes(files: Any) -> dict[str, int]:
    """The size of every file of an artifact."""
    return {name: len(content) for name, content in files.items()}


def test_the_scale_makes_mean_rows_equal() -> None:
    """ρ n̄_u = λ / s² and ρ n̄_i = λ_items s², and empty rows have no part in the means."""
    by_item = csr_array(([2.0, 3.0, 4.0, 5.0], ([0, 0, 0, 2], [0, 1, 3, 3])), shape=(4, 6))
    found = spark.scale_of(by_item, Training(2, 1, 0, 6.0, "c", ridge_items=1.5))
    assert found.ridge * (4 / 3) == pytest.approx(6.0 / found.vectors**2)
    assert found.ridge * (4 / 2) == pytest.approx(1.5 * found.vectors**2)


@pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="pyarrow, of the extra `spark`, is not installed"
)
def test_the_ratings_are_the_confidences_less_one() -> None:
    """A rating of 0 would not count as seen: what faded to c = 1 stays above it."""
    by_item = csr_array((np.array([1.0, 3.5, 2.0]), (np.array([0, 0, 1]), np.array([0, 2, 1]))), shape=(2, 3))
    pairs = spark.pairs(by_item).to_pydict()
    assert (pairs["item"], pairs["user"]) == ([0, 0, 1], [0, 2, 1])
    assert pairs["rating"][1:] == [2.5, 1.0]
    assert 0 < pairs["rating"][0] < 1e-30
