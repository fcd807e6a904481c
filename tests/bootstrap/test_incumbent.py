"""Beside the active model: equals are equal, only unseen events count, and each keeps its own policy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from bootstrap import incumbent as comparing
from bootstrap.bpr import Ranking
from bootstrap.columns import columns_of
from bootstrap.content import catalogue_of
from bootstrap.engine import Engine
from bootstrap.fit import examine, fit
from bootstrap.incumbent import Incumbent, beside
from tests.bootstrap.small import KEY, changed, quiet, recipe

if TYPE_CHECKING:
    from bootstrap.fit import Examined, Recipe
    from bootstrap.read import Log
    from schemas.records import Manifest, Policy
    from tests.bootstrap.small import Made


def active_of(made: Made, share: float, policy: Policy, plan: Recipe) -> Incumbent:
    """A generation trained on the older share of the log."""
    columns, _ = columns_of(made.log, policy, KEY)
    order = np.argsort(columns.at, kind="stable")
    part = columns.take(np.sort(order[: round(share * len(order))]))
    model, _ = fit(part, replace(plan, policy=policy), quiet)
    return Incumbent(
        manifest_of(made, int(part.at.max()), policy, model.average_user.tolist()), model.item_ids, model.items
    )


def manifest_of(made: Made, end: int, policy: Policy, average: list[float]) -> Manifest:
    return msgspec.structs.replace(made.manifest, training_data_end=end, policy=policy, average_user=average)


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
    few = Incumbent(old.manifest, old.item_ids[:20], old.items[:20])
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
    from bootstrap import artifact
    from bootstrap.job import Lineage
    from bootstrap.quality import incumbent

    assert incumbent(Lineage(KEY, None)) == (None, "")
    active, why = incumbent(Lineage(KEY, "m", parent_url=str(tmp_path / "gone")))
    assert active is None
    assert "not compared with m: manifest.json in" in why
    explicit = msgspec.structs.replace(made.manifest, algorithm="explicit")
    whole = artifact.write(str(tmp_path), explicit, made.model)
    assert incumbent(Lineage(KEY, "m", parent_url=whole.artifact.uri)) == (None, "not compared with m: it is explicit")
