"""Content projection: the formula by another way, what it reads of attributes, and what becomes of it in a model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap import artifact, content
from bootstrap.columns import columns_of
from bootstrap.content import Catalogue, catalogue_of, project
from bootstrap.fit import examine, fit
from bootstrap.job import Lineage, Source, make, read
from ops.data import write_ndjson
from schemas.records import CatalogueEntry
from streamer.events.hashes import item_hash
from streamer.factors.gram import gramian
from tests.bootstrap.small import KEY, NOW_MS, changed, event, quiet, recipe, settings_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bootstrap.small import Reading


def catalogue(attributes: list[dict[str, Any] | None], state: Any = "active") -> Catalogue:
    """Items i00, i01, ... with these attributes."""
    entries = {f"i{n:02}": CatalogueEntry("x", one, state) for n, one in enumerate(attributes)}
    return catalogue_of(entries, KEY)


@settings(max_examples=30)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(-5, 5), st.lists(st.sampled_from("xyz"), max_size=3)),
        min_size=14,
        max_size=24,
    ),
    ridge=st.floats(0.1, 100),
)
def test_it_is_the_ridge_of_the_formula(rows: list[tuple[str, float, list[str]]], ridge: float) -> None:
    """An augmented least-squares problem, solved by numpy, gives the same vectors."""
    given_items = catalogue([{"kind": kind, "size": size, "tags": tags} for kind, size, tags in rows])
    ids, trained = given_items.ids, 11
    vectors = np.random.default_rng(1).standard_normal((trained, 3)).astype(np.float32)
    weight = np.random.default_rng(2).gamma(1.0, 5.0, trained)
    found = project(given_items, ids[:trained], given_items.hashes[:trained], vectors, weight, ridge)
    assert found.ids == ids[trained:]
    sizes = np.array([size for _, size, _ in rows])
    kinds = sorted({kind for kind, _, _ in rows[:trained]})
    tags = sorted({tag for _, _, mine in rows[:trained] for tag in mine})
    middle_size, deviation = sizes[:trained].mean(), sizes[:trained].std() or 1.0
    a = np.array(
        [
            [
                *(kind == one for one in kinds),
                *(tag in mine for tag in tags),
                (size - middle_size) / deviation,
            ]
            for kind, size, mine in rows
        ],
        float,
    )
    middle, mean = np.average(a[:trained], axis=0, weights=weight), np.average(vectors, axis=0, weights=weight)
    root = np.sqrt(weight / weight.mean())[:, None]
    left = np.vstack([root * (a[:trained] - middle), np.sqrt(ridge) * np.eye(a.shape[1])])
    right = np.vstack([root * (vectors - mean), np.zeros((a.shape[1], 3))])
    weights = np.linalg.lstsq(left, right, rcond=None)[0]
    assert found.vectors == pytest.approx(mean + (a[trained:] - middle) @ weights, abs=1e-4)


def test_cross_validation_tells_signal_from_noise() -> None:
    """Vectors that follow the attributes get a small ridge, random ones the largest: all that is left is the mean."""
    draw = np.random.default_rng(2)
    attributes: list[dict[str, Any] | None] = [
        {"kind": str(n % 5), "size": float(draw.standard_normal())} for n in range(80)
    ]
    given_items = catalogue(attributes)
    of_kind = draw.standard_normal((5, 4))
    planted = np.array([of_kind[n % 5] for n in range(60)], np.float32)
    found = project(given_items, given_items.ids[:60], given_items.hashes[:60], planted, np.ones(60), 0)
    assert found.vectors == pytest.approx(np.array([of_kind[n % 5] for n in range(60, 80)]), abs=0.05)
    noise = draw.standard_normal((60, 4)).astype(np.float32)
    lost = project(given_items, given_items.ids[:60], given_items.hashes[:60], noise, np.ones(60), 0)
    assert lost.ridge > 100 * found.ridge
    assert np.abs(lost.vectors - noise.mean(axis=0)).max() < 0.5 * np.abs(noise).max()


def test_many_values_share_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the width values are hashed; the vectors stay finite and the columns few."""
    attributes: list[Any] = [{"maker": f"m{n}", "tags": [f"t{n % 7}"]} for n in range(60)]
    monkeypatch.setattr(content, "_WIDTH", 16)
    assert content.columns_of(attributes, np.arange(50)).shape == (60, 16)
    given_items = catalogue(attributes)
    vectors = np.ones((50, 3), np.float32)
    found = project(given_items, given_items.ids[:50], given_items.hashes[:50], vectors, np.ones(50), 0)
    assert found.vectors == pytest.approx(1.0)


@pytest.mark.parametrize("odd", [{"size": float("nan")}, {"size": float("inf")}, {"size": True}, {"other": 1.0}, {}])
def test_odd_attributes_count_as_the_mean(odd: dict[str, Any]) -> None:
    """A number that is none, of another kind, or not there."""
    known = [{"size": float(n)} for n in range(20)]
    found = content.columns_of([*known, odd], np.arange(20))
    assert found[20].tolist() == [0.0]


def test_there_must_be_something_to_learn_from() -> None:
    """Few trained items with attributes, or no new item: no vectors; a hash that is taken is left out."""
    few = catalogue([{"kind": "a"}] * 12)
    vectors = np.ones((12, 2), np.float32)
    assert project(few, few.ids[:9], few.hashes[:9], vectors[:9], np.ones(9), 1.0).ids == []
    assert project(few, few.ids, few.hashes, vectors, np.ones(12), 1.0).ids == []
    taken = np.concatenate([few.hashes[:10], few.hashes[11:]])
    assert project(few, [*few.ids[:10], "other"], taken, vectors[:11], np.ones(11), 1.0).ids == [few.ids[10]]


def test_only_active_items_with_attributes_are_projected() -> None:
    """Withdrawn and banned ones must not come back this way."""
    entries = {
        "a": CatalogueEntry("x", {"kind": "a"}),
        "b": CatalogueEntry("x", {"kind": "a"}, "withdrawn"),
        "c": CatalogueEntry("x", None),
        "d": CatalogueEntry("x", {}, "banned"),
    }
    found = catalogue_of(entries, KEY)
    assert found.ids == ["a"]
    assert found.hashes.tolist() == [item_hash("a", KEY)]
    assert (set(found.active), set(found.withdrawn)) == ({"a", "c"}, {"b", "d"})


@pytest.fixture(scope="module")
def shop() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """People who like one of four kinds, and items of each kind; those that end in 7 come out late."""
    draw = np.random.default_rng(0)
    items = [{"item_id": f"i{n:03}", "title": "x", "attributes": {"kind": str(n % 4)}} for n in range(120)]
    events = []
    for at in range(6_000):
        user = int(draw.integers(0, 150))
        item = int(draw.integers(0, 30)) * 4 + user % 4
        if item % 10 == 7 and at < 4_800:
            continue
        events.append(event(f"u{user}", f"i{item:03}", "like", NOW_MS - 10_000_000 + at * 1_000, request_id=str(at)))
    return events, items


def test_new_items_are_found_by_what_they_are(shop: Any, reading: Reading) -> None:
    """Without projection a new item is never found; with it, nearly as often as one of its kind can be."""
    policy = changed()
    log = reading(*shop[0], policy=policy)
    log.catalogue = {one["item_id"]: CatalogueEntry("x", one["attributes"]) for one in shop[1]}
    columns, _ = columns_of(log, policy, KEY)
    known = catalogue_of(log.catalogue, KEY)
    without = examine(columns, recipe(policy), quiet, catalogue=known)
    found = examine(columns, replace(recipe(policy), content=True), quiet, catalogue=known)
    assert without is not None
    assert found is not None
    assert without.trained.projected == 0
    assert without.metrics["new_items_events"] == found.metrics["new_items_events"] > 40
    assert without.metrics["new_items_recall"] == 0
    assert found.metrics["new_items_recall"] > 0.2
    assert found.metrics["scored_events"] == without.metrics["scored_events"]
    assert found.trained.projected > 0
    model, parity_error = fit(columns.take(np.arange(4_000)), replace(recipe(policy), content=True), quiet, None, known)
    assert model.projected == 12
    assert parity_error < 1e-5


def test_the_artifact_tells_them_apart(shop: Any, tmp_path: Path) -> None:
    """They stand last, counted in the manifest, without popularity; the Gramian that workers will have counts them."""
    events, items = tmp_path / "events.ndjson", tmp_path / "items.ndjson"
    write_ndjson(events, shop[0][:4_000])
    write_ndjson(items, [*shop[1], {"item_id": "gone", "title": "x", "attributes": {"kind": "1"}, "state": "banned"}])
    wanted = settings_of(tmp_path / "artifacts", FACTORS_BOOTSTRAP__CONTENT="true")
    log = read(wanted, Source(str(events), str(items)), NOW_MS)
    manifest, model = make(wanted, log, Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
    whole = artifact.write(wanted.bootstrap.artifacts, manifest, model)
    again, opened = artifact.open_artifact(whole.artifact.uri)
    assert again.counts["projected_items"] == opened.projected == 12
    assert again.hyperparameters["content"] == 1
    late = opened.item_ids[-12:]
    assert late == [f"i{n:03}" for n in range(7, 120, 10)]
    assert not opened.popularity[-12:].any()
    assert (opened.popularity[:-12] > 0).all()
    assert opened.gramian_items == pytest.approx(gramian(opened.items))
    assert again.metrics["item_coverage"] == 1
    assert "gone" not in opened.item_ids
    plain = settings_of(tmp_path / "artifacts")
    manifest, model = make(plain, log, Lineage(KEY, None), now_ms=NOW_MS, show=quiet)
    assert (manifest.counts["projected_items"], len(model.item_ids)) == (0, 108)
    assert manifest.metrics["item_coverage"] == 0.9
