"""Beside the active model: equals are equal, only unseen events count, and each keeps its own policy."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from bootstrap import artifact
from bootstrap import incumbent as comparing
from bootstrap.als import Training
from bootstrap.bpr import Ranking
from bootstrap.columns import columns_of
from bootstrap.content import catalogue_of
from bootstrap.engine import Engine
from bootstrap.fit import examine, fit
from bootstrap.incumbent import Incumbent, beside, folded_in, kept, lost
from bootstrap.job import Lineage
from bootstrap.quality import incumbent as opening
from streamer.errors import ConfigError
from streamer.factors.ridge import ridge_in
from streamer.factors.serving import priors_in
from tests.bootstrap.small import KEY, changed, quiet, recipe

if TYPE_CHECKING:
    from pathlib import Path

    from bootstrap.fit import Examined, Recipe
    from bootstrap.model import Model
    from bootstrap.read import Log
    from schemas.records import Manifest, Policy
    from tests.bootstrap.small import Made


def active_of(made: Made, share: float, policy: Policy, plan: Recipe) -> Incumbent:
    """A generation trained on the older share of the log."""
    columns, _ = columns_of(made.log, policy, KEY)
    order = np.argsort(columns.at, kind="stable")
    part = columns.take(np.sort(order[: round(share * len(order))]))
    model, _ = fit(part, replace(plan, policy=policy), quiet)
    manifest = manifest_of(made, int(part.at.max()), policy, model)
    return Incumbent(manifest, model.item_ids, model.items, model.weights)


def manifest_of(made: Made, end: int, policy: Policy, model: Model) -> Manifest:
    popular = model.popularity_user
    return msgspec.structs.replace(
        made.manifest,
        training_data_end=end,
        policy=policy,
        counts={**made.manifest.counts, "trained_items": len(model.item_ids)},
        average_user=model.average_user.tolist(),
        popularity_user=None if popular is None else popular.tolist(),
        segments={name: vector.tolist() for name, vector in model.segments.items()},
    )


def compared(log: Log, active: Incumbent, plan: Recipe, examined: Examined | None = None) -> dict[str, float]:
    columns, _ = columns_of(log, plan.policy, KEY)
    examined = examined or examine(columns, plan, quiet)
    assert examined is not None
    return beside(log, columns, examined, plan, active, KEY, quiet, catalogue_of({}, KEY))


@pytest.mark.parametrize("share", [0.8, 0.9])
def test_the_same_recipe_on_the_same_events_is_equal(made: Made, share: float) -> None:
    """Trained up to the cut, or later: the candidate is trained up to that time too, and both come to the same."""
    plan = recipe(changed())
    found = compared(made.log, active_of(made, share, plan.policy, plan), plan)
    assert found["active_retrained"] == 0
    assert found["active_recall"] == pytest.approx(found["beside_active_recall"], abs=1e-3)
    assert found["active_ndcg"] == pytest.approx(found["beside_active_ndcg"], abs=1e-3)
    assert found["active_recall"] > 0.1
    newer = (1 - share) * len(made.log.events)
    assert 0.5 * newer < found["active_events"] <= newer


def test_an_older_model_is_judged_on_the_whole_test(made: Made) -> None:
    """It knows less, has seen none of the test events, and the items that it lacks are its misses."""
    plan = recipe(changed())
    old = active_of(made, 0.3, plan.policy, plan)
    found = compared(made.log, old, plan)
    assert found["active_recall"] < found["beside_active_recall"]
    few = Incumbent(old.manifest, old.item_ids[:20], old.items[:20], None)
    fewer = compared(made.log, few, plan)
    assert fewer["active_events"] == found["active_events"]
    assert fewer["beside_active_recall"] == found["beside_active_recall"]
    assert fewer["active_recall"] < 0.5 * found["active_recall"]


def test_a_model_that_has_seen_everything_is_trained_anew(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its published vectors would foretell what they were fitted on; its recipe does so honestly."""
    plan = recipe(changed())
    active = active_of(made, 1.0, plan.policy, plan)
    honest = compared(made.log, active, plan)
    assert honest["active_retrained"] == 1
    worse = Incumbent(
        msgspec.structs.replace(
            active.manifest, hyperparameters={**active.manifest.hyperparameters, "iterations": 1, "seed": 5}
        ),
        active.item_ids,
        active.items,
        None,
    )
    assert compared(made.log, worse, plan)["active_recall"] < 0.8 * honest["active_recall"]
    # What is prevented: judged by what it has seen, it looks better than it is.
    monkeypatch.setattr(comparing, "ENOUGH", 0)
    monkeypatch.setattr(comparing, "_unseen", lambda columns, manifest: np.arange(len(columns)))
    assert compared(made.log, active, plan)["active_recall"] > 1.1 * honest["active_recall"]


def test_each_folds_by_its_own_policy(made: Made) -> None:
    """An active model of other weights and another solve is folded in by those."""
    plan = recipe(changed())
    other = changed(alpha=1.0, ridge=40.0, rhs="c-1", half_life_ms=0, recency_entries=2.0)
    theirs = recipe(other)
    active = active_of(made, 0.8, other, theirs)
    found = compared(made.log, active, plan)
    examined = examine(columns_of(made.log, other, KEY)[0], theirs, quiet)
    assert examined is not None
    assert found["active_recall"] == pytest.approx(examined.metrics["recall"], abs=1e-3)
    assert found["active_recall"] != pytest.approx(found["beside_active_recall"], abs=1e-3)


OWN = changed(
    alpha=2.0,
    ridge=20.0,
    rhs="c-1",
    half_life_ms=0,
    recency_entries=4.0,
    ridge_nu=0.4,
    ridge_alpha0=0.2,
    unobserved_power=0.5,
    session_weight=0.4,
    session_entries=2,
    blend_events=60,
)
"""Of the kind that only an active model's own policy can be."""


def test_the_recipe_is_the_active_models_in_every_field(made: Made) -> None:
    """None of them is the candidate's, but for the evaluation and the machine, which both share."""
    said: dict[str, Any] = {
        "engine": "native",
        "iterations": 3,
        "seed": 9,
        "solver": "cholesky",
        "steps": 5,
        "patience": 0.25,
        "ridge_items": 6.0,
        "content": 1,
        "content_ridge": 2.0,
        "segment_users": 4,
        "solver_tolerance": 1e-4,
    }
    manifest = msgspec.structs.replace(
        made.manifest, dimension=5, average_user=[0.0] * 5, user_gramian=None, policy=OWN, hyperparameters=said
    )
    candidate = replace(recipe(changed(), threads=3), objective="bpr", engine=Engine.SPARK, train_fraction=0.7)
    its = comparing._recipe_of(manifest, candidate)
    assert its.training == Training(5, 3, 9, 20.0, "c-1", 5, "cholesky", 0.25, 3, 6.0, 0.4, 0.2)
    for field in fields(Training):
        both = getattr(its.training, field.name), getattr(candidate.training, field.name)
        assert (both[0] == both[1]) == (field.name == "threads"), field.name
    assert its == replace(
        candidate,
        training=its.training,
        policy=OWN,
        tolerance=1e-4,
        content=True,
        content_ridge=2.0,
        segment_users=4,
        objective="als",
        engine=Engine.NATIVE,
    )


def test_the_manifest_says_what_a_recipe_is_made_of(made: Made) -> None:
    """What `_recipe_of` asks of it is there, so that nothing of the candidate's slips in."""
    named = {"iterations", "seed", "solver", "steps", "patience", "ridge_items", "content", "content_ridge"}
    assert named | {"engine", "segment_users", "solver_tolerance"} <= set(made.manifest.hyperparameters)


def test_a_model_of_sparks_is_trained_again_by_spark_or_exactly(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the candidate is trained by; without Spark here, the native engine solves as MLlib does."""
    manifest = msgspec.structs.replace(
        made.manifest, hyperparameters={"engine": "spark", "solver": "mllib", "iterations": 4}
    )
    monkeypatch.setattr(comparing, "expect_installed", lambda: None)
    assert comparing._recipe_of(manifest, recipe(changed())).engine is Engine.SPARK

    def missing() -> None:
        raise ConfigError("no Java")

    monkeypatch.setattr(comparing, "expect_installed", missing)
    its = comparing._recipe_of(manifest, recipe(changed(), patience=0.1))
    assert (its.engine, its.training.solver, its.training.patience) == (Engine.NATIVE, "cholesky", 0.0)
    assert its.training.iterations == 4


def test_what_is_trained_again_is_the_active_models_own(made: Made) -> None:
    """Under its own policy and hyper-parameters it foretells what an evaluation of just those does."""
    theirs = recipe(OWN, iterations=6, ridge_nu=OWN.ridge_nu, ridge_alpha0=OWN.ridge_alpha0)
    found = compared(made.log, active_of(made, 1.0, OWN, theirs), recipe(changed(), dimension=3, iterations=2))
    examined = examine(columns_of(made.log, OWN, KEY)[0], theirs, quiet)
    assert examined is not None
    assert found["active_retrained"] == 1
    assert found["active_recall"] == pytest.approx(examined.metrics["recall"], abs=1e-9)
    assert found["active_ndcg"] == pytest.approx(examined.metrics["ndcg"], abs=1e-9)


def test_it_is_judged_by_what_it_publishes(made: Made) -> None:
    """Session and blend, its frozen ridge and its own weights included."""
    theirs = recipe(OWN, ridge_nu=OWN.ridge_nu, ridge_alpha0=OWN.ridge_alpha0)
    active = active_of(made, 0.8, OWN, theirs)
    found = compared(made.log, active, recipe(changed()))
    examined = examine(columns_of(made.log, OWN, KEY)[0], theirs, quiet)
    assert examined is not None
    assert found["active_retrained"] == 0
    assert found["active_recall"] == pytest.approx(examined.metrics["recall"], abs=1e-3)
    assert found["active_ndcg"] == pytest.approx(examined.metrics["ndcg"], abs=1e-3)


def test_a_catalogue_that_has_grown_keeps_the_active_models_weights(made: Made) -> None:
    """They are its items', by id, however many items the events have by now."""
    theirs = recipe(OWN, ridge_nu=OWN.ridge_nu, ridge_alpha0=OWN.ridge_alpha0)
    old = active_of(made, 0.8, OWN, theirs)
    columns = columns_of(made.log, OWN, KEY)[0]
    # Some items in another order, as those of an older generation are to the events.
    keep = np.arange(0, len(old.item_ids), 3)[::-1]
    assert old.weights is not None
    few = Incumbent(old.manifest, [old.item_ids[at] for at in keep], old.items[keep], old.weights[keep])
    trained = folded_in(columns, few, theirs, KEY)
    np.testing.assert_array_equal(trained.space.weights, old.weights[keep])
    assert trained.space.ids == few.item_ids
    assert trained.space.rule == ridge_in(old.manifest)
    # What is published of its users is made by its manifest's priors, not by none.
    own = priors_in(old.manifest)
    assert own is not None
    assert trained.priors is not None
    np.testing.assert_array_equal(trained.priors.vectors, own.vectors)
    average = np.array(old.manifest.average_user, np.float32)
    assert average.any()
    np.testing.assert_array_equal(trained.solved.average, average)
    unknown = folded_in(columns, Incumbent(old.manifest, ["new"], old.items[:1], old.weights[:1]), theirs, KEY)
    np.testing.assert_array_equal(unknown.solved.vectors, np.broadcast_to(average, unknown.solved.vectors.shape))


def test_a_recipe_of_pairs_is_trained_again_as_one(made: Made) -> None:
    """The active model's own objective and rates, by the engine that has them."""
    said = {"rate": 0.07, "decay": 0.9, "reg_users": 0.02, "reg_items": 0.03, "negative_popularity": 0.5}
    manifest = msgspec.structs.replace(
        made.manifest, algorithm="implicit-bpr", hyperparameters=made.manifest.hyperparameters | said
    )
    spark = replace(recipe(changed()), engine=Engine.SPARK)
    its = comparing._recipe_of(manifest, spark)
    assert (its.objective, its.engine, its.ranking) == ("bpr", Engine.NATIVE, Ranking(**said))
    its = comparing._recipe_of(made.manifest, replace(spark, objective="bpr", engine=Engine.NATIVE))
    assert its.objective == "als"


def test_what_cannot_be_compared_says_why(made: Made, tmp_path: Any) -> None:
    """An artifact that is gone, or a model of another kind, is a remark and no gate."""
    assert opening(Lineage(KEY, None)) == (None, "")
    active, why = opening(Lineage(KEY, "m", parent_url=str(tmp_path / "gone")))
    assert active is None
    assert "not compared with m: manifest.json in" in why
    explicit = msgspec.structs.replace(made.manifest, algorithm="explicit")
    whole = artifact.write(str(tmp_path), explicit, made.model)
    assert opening(Lineage(KEY, "m", parent_url=whole.artifact.uri)) == (None, "not compared with m: it is explicit")


def test_the_artifacts_weights_come_with_it(made: Made, tmp_path: Path) -> None:
    """As they were trained with; none where the policy has none."""
    active = active_of(made, 0.5, OWN, recipe(OWN))
    model = replace(
        made.model, items=active.items, item_ids=active.item_ids, weights=np.linspace(0.5, 2.0, len(active.items))
    )
    counts = {**active.manifest.counts, "items": len(active.items)}
    manifest = msgspec.structs.replace(active.manifest, counts=counts)
    whole = artifact.write(str(tmp_path), manifest, model)
    opened, _ = opening(Lineage(KEY, "m", parent_url=whole.artifact.uri))
    assert opened is not None
    assert opened.weights is not None
    np.testing.assert_array_equal(opened.weights, model.weights)
    plain = artifact.write(str(tmp_path / "plain"), made.manifest, made.model)
    opened, _ = opening(Lineage(KEY, "m", parent_url=plain.artifact.uri))
    assert opened is not None
    assert opened.weights is None


def test_what_a_new_model_keeps_is_counted(made: Made, tmp_path: Any) -> None:
    """By id; an item that was withdrawn since is none that was lost; an artifact that is gone counts nothing."""
    whole = artifact.write(str(tmp_path), made.manifest, made.model)
    items, users = made.model.item_ids, made.model.users.ids
    url = whole.artifact.uri
    half = kept(url, [*items[::2], "new"], users)
    assert half["active_items"] == len(items)
    assert half["active_items_kept"] == len(items[::2])
    assert half["active_users"] == half["active_users_kept"] == len(users)
    assert lost(half) == [f"{len(items[1::2])} of the active model's {len(items)} items are not in this one"]
    withdrawn = kept(url, items[::2], users[:1], frozenset(items[1::2]))
    assert withdrawn["active_items"] == withdrawn["active_items_kept"] == len(items[::2])
    assert withdrawn["active_users_kept"] == 1
    assert kept(str(tmp_path / "gone"), items, users) == {}
