"""What a fit is made of: nothing to learn from is said, ridges count who is there, weights and priors as written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from bootstrap import fit as fitting
from bootstrap.als import Training, fit_items, half_step
from bootstrap.columns import columns_of
from bootstrap.content import Projection, catalogue_of
from bootstrap.evaluate import split
from bootstrap.fit import examine, fit, score, train
from bootstrap.fold import NothingKeptError, fold
from bootstrap.job import Lineage, make, user_gramian
from bootstrap.matrix import build, weights_of
from bootstrap.priors import popularity_user
from bootstrap.rated import ratings_of
from bootstrap.users import space_of
from schemas.records import CatalogueEntry
from streamer.errors import DataError
from streamer.factors.gram import gramian
from streamer.factors.ridge import ridge_in
from tests.bootstrap.planted import EXPLICIT
from tests.bootstrap.small import KEY, NOW_MS, changed, event, quiet, recipe, settings_of

if TYPE_CHECKING:
    from pathlib import Path

    from bootstrap.fit import Recipe
    from bootstrap.read import Log
    from schemas.records import Policy
    from tests.bootstrap.small import Made, Reading

HIDES = [event(f"u{n}", "a", "hide", NOW_MS - n) for n in range(6)]
RETURNED = [
    event(f"u{n}", "a", kind, NOW_MS - 100 + 10 * n + late)
    for n in range(6)
    for late, kind in enumerate(["purchase", "return"])
]
GROWING = changed(ridge_nu=0.5, ridge_alpha0=0.5)


def grown(policy: Policy = GROWING, **changes: Any) -> Recipe:
    """A recipe whose ridges follow its policy's, as the job's do."""
    return recipe(policy, ridge_nu=policy.ridge_nu, ridge_alpha0=policy.ridge_alpha0, **changes)


def tastes(users: range, at: int = NOW_MS) -> list[dict[str, Any]]:
    """Each user likes four of ten items."""
    return [event(f"u{u}", f"i{(u + 3 * step) % 10}", at=at - 50 * u - step) for u in users for step in range(4)]


@pytest.mark.parametrize("events", [HIDES, RETURNED])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"FACTORS_BOOTSTRAP__OBJECTIVE": "bpr"},
        {"FACTORS_POLICY__UNOBSERVED_POWER": "0.5"},
        EXPLICIT,
    ],
)
def test_nothing_kept_is_said_in_a_sentence(
    events: list[dict[str, Any]], more: dict[str, str], reading: Reading, tmp_path: Path
) -> None:
    """Whatever trains: the log has events, and none of them is one to learn from."""
    settings = settings_of(tmp_path, **more)
    log = reading(*events, policy=settings.policy)
    with pytest.raises(NothingKeptError, match="nothing to train on") as said:
        make(settings, log, Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
    assert isinstance(said.value, DataError)
    assert said.value.exit_code == 4


@pytest.mark.parametrize("more", [{}, EXPLICIT])
def test_an_evaluation_with_nothing_kept_measures_nothing(
    more: dict[str, str], reading: Reading, tmp_path: Path
) -> None:
    """The first events are all hides: there is no model to foretell the others by, and a fit on all of them is fine."""
    settings = settings_of(tmp_path, **more)
    log = reading(*HIDES, event("v", "b", at=NOW_MS + 1, value=3.0), policy=settings.policy)
    manifest, model = make(settings, log, Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
    assert "scored_events" not in manifest.metrics
    assert model.item_ids == ["b"]


def test_users_without_a_history_are_nobody_to_the_items_ridge(reading: Reading) -> None:
    """Who only hides things changes no vector."""
    some = columns_of(reading(*tastes(range(30))), GROWING, KEY)[0]
    hides = [event(f"h{n}", "i1", "hide", NOW_MS) for n in range(60)]
    more = columns_of(reading(*tastes(range(30)), *hides), GROWING, KEY)[0]
    both = [train(columns, grown(), quiet, "") for columns in (some, more)]
    np.testing.assert_allclose(both[0].space.vectors, both[1].space.vectors, atol=1e-6)


def test_the_evaluations_training_does_not_see_the_other_side(reading: Reading) -> None:
    """Users who only come after the cut are no part of its ridge."""
    older, newer = tastes(range(30), NOW_MS - 10_000_000), tastes(range(30, 90))
    whole = columns_of(reading(*older, *newer), GROWING, KEY)[0]
    before, _ = split(whole, len(older) / (len(older) + len(newer)))
    cut = train(whole.take(np.sort(before)), grown(), quiet, "")
    alone = train(columns_of(reading(*older), GROWING, KEY)[0], grown(), quiet, "")
    assert cut.matrix.item_ids == alone.matrix.item_ids
    np.testing.assert_allclose(cut.space.vectors, alone.space.vectors, atol=1e-6)


def test_rows_without_a_pair_count_on_neither_side() -> None:
    """A half-step's ridges and its loss are those of the matrix without them."""
    draw = np.random.default_rng(0)
    dense = np.where(draw.random((20, 15)) < 0.3, 2 + draw.random((20, 15)), 0.0)
    dense = dense[dense.any(axis=1)][:, dense.any(axis=0)]
    wide = np.zeros((len(dense) + 9, dense.shape[1]))
    wide[: len(dense)] = dense
    plan = Training(4, 1, 0, 2.0, "c", steps=12, ridge_nu=0.5, ridge_alpha0=0.5)
    found = []
    for matrix in (dense, wide):
        v, x = draw.standard_normal((dense.shape[1], 4)).astype(np.float32), np.zeros((len(matrix), 4), np.float32)
        v[:] = np.arange(v.size).reshape(v.shape) % 7 / 7
        users = half_step(csr_array(matrix), v, x, plan)
        items = half_step(csr_array(csr_array(matrix.T).tocsr()), x, v, plan, items=True)
        found.append((users, items, v))
    assert found[0][:2] == pytest.approx(found[1][:2], rel=1e-6)
    np.testing.assert_allclose(found[0][2], found[1][2], atol=1e-5)


def test_projected_items_have_no_part_in_the_ridge(
    reading: Reading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training's count is the manifest's, which the workers read, and that of the bootstrap's own users."""

    def projected(_catalogue: object, _ids: object, _hashes: object, vectors: Any, weight: Any, ridge: float) -> Any:
        seen.append(weight)
        return Projection(["new"], np.array([7], np.uint64), vectors[:1], ridge)

    seen: list[Any] = []
    monkeypatch.setattr(fitting, "project", projected)
    environ = {"FACTORS_POLICY__RIDGE_NU": "0.5", "FACTORS_POLICY__RIDGE_ALPHA0": "0.5"}
    settings = settings_of(tmp_path, **environ, FACTORS_BOOTSTRAP__CONTENT="true")
    log = reading(*tastes(range(30)))
    manifest, model = make(settings, log, Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
    assert (len(model.item_ids), manifest.counts["trained_items"]) == (11, 10)
    columns = columns_of(log, settings.policy, KEY)[0]
    plan = replace(grown(settings.policy), content=True)
    trained = train(columns, plan, quiet, "", catalogue=catalogue_of({"new": CatalogueEntry("n", {"a": 1})}, KEY))
    assert trained.space.size == 11
    assert ridge_in(manifest) == trained.space.rule
    assert trained.space.rule.offset == 0.5 * 10
    # An item counts by the root of how popular it is, as its vector's error does.
    np.testing.assert_allclose(seen[-1], np.sqrt(trained.matrix.popularity[:10]))


def test_items_are_trained_by_the_weights_of_their_unobserved_pairs(made: Made) -> None:
    """Not only users solved by them."""
    policy = changed(unobserved_power=0.5)
    columns = columns_of(made.log, policy, KEY)[0]
    matrix = build(columns, fold(columns, policy), policy, int(columns.at.max()))
    plan = recipe(policy, iterations=2)
    weights = weights_of(matrix, 0.5)
    expected = fit_items(matrix.by_user, matrix.by_item, plan.training, lambda _: None, None, weights)
    np.testing.assert_array_equal(train(columns, plan, quiet, "").space.vectors, expected)


def test_the_exact_solver_is_exact_where_confidences_are_large() -> None:
    """To what float32 holds of the result, at c of tens of thousands."""
    draw = np.random.default_rng(3)
    dense = np.where(draw.random((40, 60)) < 0.3, 27_000 * draw.random((40, 60)) + 1, 0.0)
    v = draw.standard_normal((60, 16)).astype(np.float32)
    x = np.zeros((40, 16), np.float32)
    half_step(csr_array(dense), v, x, Training(16, 1, 0, 0.1, "c", solver="cholesky"))
    fixed = v.astype(np.float64)
    for row, c in enumerate(dense):
        more = np.where(c > 0, c - 1, 0.0)
        exact = np.linalg.solve((fixed.T * (1 + more)) @ fixed + 0.1 * np.eye(16), fixed.T @ c)
        assert np.linalg.norm(x[row] - exact) < 1e-6 * np.linalg.norm(exact)


def test_the_vector_of_popularity_is_that_of_the_formula(made: Made) -> None:
    """That is a = (V'V + ridge I)^-1 V' (log1p(p) - mean), as long as user vectors are in the median."""
    policy, columns = changed(), columns_of(made.log, changed(), KEY)[0]
    matrix = build(columns, fold(columns, policy), policy, int(columns.at.max()))
    space, vectors = space_of(matrix, made.model.items, policy), made.model.user_vectors
    v, wanted = made.model.items.astype(np.float64), np.log1p(matrix.popularity)
    found = np.linalg.solve(v.T @ v + policy.ridge * np.eye(v.shape[1]), v.T @ (wanted - wanted.mean()))
    length = np.median(np.linalg.norm(vectors.astype(np.float64), axis=1))
    expected = found * length / np.linalg.norm(found)
    np.testing.assert_allclose(popularity_user(space, matrix.popularity, vectors), expected, rtol=1e-5)


def test_a_rating_fades_with_its_age_and_with_what_came_after(reading: Reading) -> None:
    """2^(-age / half-life), counted from the user's newest rating, times 2^(-newer / recency)."""
    policy = changed(feedback="explicit", rating_half_life_ms=1_000, recency_entries=2.0)
    kinds = [event("u", name, "watch_complete", NOW_MS - age, value=3) for name, age in [("a", 2000), ("b", 1000)]]
    log = reading(*kinds, event("u", "c", "watch_complete", NOW_MS, value=4), policy=policy)
    columns = columns_of(log, policy, KEY)[0]
    users = fold(columns, policy)
    ratings = ratings_of(users, np.arange(3, dtype=np.int32), 3, policy)
    order = np.argsort(ratings.time)
    np.testing.assert_allclose(ratings.weight[order], [0.25 * 0.5, 0.5 * 0.5**0.5, 1.0])
    assert ratings.rating[order].tolist() == [3, 3, 4]


def test_the_manifests_gramian_is_of_users_with_a_history(reading: Reading) -> None:
    """The others stand at the average, and the workers would fold new items in with it."""
    columns = columns_of(gone_and_there(reading), changed(), KEY)[0]
    model, _ = fit(columns, recipe(changed()), quiet)
    has = np.diff(model.users.history_start) > 0
    assert not has.all()
    whole = gramian(model.user_vectors[has])
    np.testing.assert_allclose(user_gramian(model) or [], whole[np.triu_indices(len(whole))], rtol=1e-8)


def gone_and_there(reading: Reading) -> Log:
    return reading(*tastes(range(12)), *(event(f"h{n}", "i1", "hide", NOW_MS) for n in range(12)))


def test_a_score_of_nothing_is_nothing(reading: Reading) -> None:
    """As where there are too few events for two sides."""
    columns = columns_of(reading(*HIDES, event("v", "b", at=NOW_MS + 1)), changed(), KEY)[0]
    assert examine(columns, recipe(changed()), quiet) is None
    assert score(columns, recipe(changed()), quiet) == {}
