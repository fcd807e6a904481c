"""The arithmetic of `explain` and `audit`, against the worker's own step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Policy
from streamer.commands import audit as command
from streamer.commands.audit import Audit
from streamer.commands.explain import explain_scores
from streamer.errors import CheckFailed
from streamer.factors.solve import solve_cholesky
from streamer.factors.space import ItemSpace
from streamer.settings import Settings
from streamer.steps.parity import relative_error


def _space(items: int = 30, dimension: int = 6) -> ItemSpace:
    random = np.random.default_rng(3)
    space = ItemSpace(dimension, 2.0)
    index = space.add([f"i{number}" for number in range(items)], np.arange(1, items + 1, dtype=np.uint64))
    space.put(index, random.normal(0, 0.5, (items, dimension)).astype(np.float32))
    return space


@given(
    history=st.lists(st.tuples(st.integers(-1, 29), st.floats(1.0, 20.0)), max_size=12, unique_by=lambda e: e[0]),
    rhs=st.sampled_from(["c", "c-1"]),
    top=st.integers(1, 8),
)
def test_parts_add_up_to_the_scores(history: list[tuple[int, float]], rhs: str, top: int) -> None:
    """Every score splits over the history without a rest, and the vector is the worker's."""
    space = _space()
    policy = Policy(ridge=2.0, rhs="c" if rhs == "c" else "c-1")
    index = np.array([entry[0] for entry in history], np.int32)
    confidence = np.array([entry[1] for entry in history], np.float64)
    made = explain_scores(space, index, confidence, policy, top)
    expected = solve_cholesky(space, index, confidence, rhs)
    np.testing.assert_allclose(made.vector, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(made.parts.sum(axis=0), made.scores, atol=1e-9)
    np.testing.assert_allclose(made.scores, space.vectors[made.top] @ made.vector, atol=1e-9)
    assert not set(made.top.tolist()) & set(index[index >= 0].tolist())
    assert (np.diff(made.scores) <= 1e-12).all()
    np.testing.assert_array_equal(made.parts[index < 0], 0.0)


def test_relative_error() -> None:
    """Relative to the fresh vector; what is not finite is infinitely wrong."""
    fresh = np.array([3.0, 4.0], np.float32)
    assert relative_error(fresh, fresh) == 0.0
    assert relative_error(np.array([3.0, 4.5], np.float32), fresh) == pytest.approx(0.1)
    assert relative_error(np.array([np.nan, 0], np.float32), fresh) == np.inf
    assert relative_error(fresh, np.zeros(2, np.float32)) == 5.0


def test_report_keeps_the_two_kinds_apart() -> None:
    """A difference because items moved is no error."""
    found = Audit(standing=[1e-7, 2e-7], moved=[0.3])
    report = found.report()
    assert report["largest_error"] == 2e-7
    assert report["largest_difference_where_moved"] == 0.3
    assert (report["users"], report["items_standing_still"], report["items_moved_since"]) == (3, 2, 1)
    # Nothing judged is no error of 0.
    assert Audit(moved=[0.3]).report()["largest_error"] is None


@pytest.mark.parametrize(
    ("compared", "others", "status"),
    [
        ([("a", 1e-7, True), ("b", 2e-7, True)], {}, "exact"),
        ([("a", 1e-7, True), ("b", 2.68, False)], {}, "exact"),
        ([("a", 0.1, False), ("b", 2.68, False), ("c", 0.3, False)], {}, "not_judged"),
        ([], {"newer": 3}, "not_judged"),
        ([("a", 1e-7, True), ("b", 1e-3, True)], {}, "wrong"),
        ([("a", 1e-7, True), ("b", float("inf"), False)], {}, "wrong"),
        ([("a", 0.1, False)], {"unpublished": 1}, "wrong"),
        ([], {}, "nothing_there"),
        ([], {"other_generation": 9}, "nothing_there"),
    ],
)
def test_only_an_error_or_nothing_at_all_is_a_failure(
    compared: list[tuple[str, float, bool]],
    others: dict[str, Any],
    status: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A healthy system whose items moved since is none; who differs most has a name."""
    found = Audit(**others)
    for user, error, standing in compared:
        found.compare(user, error, standing=standing)
    assert found.status == status
    monkeypatch.setattr(command, "settings_of", lambda config: Settings())
    monkeypatch.setattr(command, "_audit", lambda settings, sample: found)
    lines: list[str] = []
    monkeypatch.setattr(command, "say", lines.append)
    if status in ("wrong", "nothing_there"):
        with pytest.raises(CheckFailed):
            command.audit(sample=0, as_json=False)
        return
    command.audit(sample=0, as_json=False)
    told = "\n".join(lines)
    assert ("no error found" in told) == bool(found.moved or found.newer)
    if found.moved:
        assert "user b, by 268%" in told
        assert found.report()["farthest_user"] == "b"
