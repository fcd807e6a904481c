"""The user side's view of the items: which are the generation's own, and a Gramian that says when it has drifted."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.records import Policy
from streamer.steps import items as viewing
from streamer.steps.items import MAX_DRIFT, Items
from tests.streamer.steps.world import items

K = 8


def moved(view: Items, rounds: int) -> list[float]:
    """Put all vectors anew so often, as the replica does; what each check found."""
    first = int(view.space.versions.max())
    draw, found = np.random.default_rng(first), []
    for version in range(first + 1, first + 1 + rounds):
        vectors = draw.standard_normal((view.space.size, K)).astype(np.float32)
        view.put(view.space.ids, [version] * len(vectors), vectors)
        drift = view.check_gramian()
        if drift is not None:
            found.append(drift)
    return found


@pytest.fixture
def view(monkeypatch: pytest.MonkeyPatch) -> Items:
    """Twenty items that are looked at every few rounds."""
    monkeypatch.setattr(viewing, "_BLOCK", 20)
    return items(Policy())


def test_rank_one_updates_stay_far_below_the_bound(view: Items) -> None:
    """A thousand revisions of every item; the check is due once in four times as many puts as there are items."""
    found = moved(view, 1000)
    assert len(found) == 250
    assert max(found) < MAX_DRIFT / 1000
    assert view.drift == found[-1]


@pytest.mark.parametrize("damage", [1e-6, np.nan])
def test_what_has_drifted_is_said_and_counted_anew(view: Items, damage: float) -> None:
    """Users are then solved with the true one again."""
    view.space.gramian[0, 0] += damage * np.linalg.norm(view.space.gramian)
    [drift] = moved(view, 4)
    assert not drift <= MAX_DRIFT
    rows = view.space.vectors.astype(np.float64)
    assert np.allclose(view.space.gramian, rows.T @ rows, rtol=1e-12)
    assert max(moved(view, 4)) <= MAX_DRIFT


def test_a_small_drift_is_measured_and_left(view: Items) -> None:
    """Below the bound nothing jumps."""
    view.space.gramian *= 1 + 1e-11
    before = view.space.drift(MAX_DRIFT)
    assert 0 < before < MAX_DRIFT
    assert view.space.drift(MAX_DRIFT) == pytest.approx(before)


def test_the_frozen_catalogue_is_in_the_order_of_ids() -> None:
    """Whatever order the topic was read in, so that every worker draws alike."""
    vectors = np.eye(3, K, dtype=np.float32)
    views = []
    for order in (["b", "a", "c"], ["c", "b", "a"]):
        made = Items(dimension=K, ridge=1.0, item_key=bytes(16), partitions=2)
        made.put(order, [1, 1, 1], vectors)
        made.settle()
        views.append(made)
    for made in views:
        assert [made.space.ids[at] for at in made.frozen.tolist()] == ["a", "b", "c"]
        assert made.frozen_hashes().tolist() == [made.of(name)[1] for name in "abc"]


def test_a_record_that_is_not_newer_is_dropped() -> None:
    """The same version again is a record read twice, or another generation's copy: the first one stands."""
    view = items(Policy(), 2)
    first = np.full((1, K), 2.0, np.float32)
    assert view.put(["i0"], [5], first) == 1
    for version in (5, 4):
        assert view.put(["i0"], [version], first + 1) == 0
        assert np.array_equal(view.space.vectors[0], first[0])
    assert view.put(["i0", "i0"], [6, 6], np.concatenate([first + 2, first + 3])) == 1
    assert np.array_equal(view.space.vectors[0], first[0] + 2)
