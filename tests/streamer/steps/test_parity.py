"""A worker compares what it publishes with a fresh exact solve, when it is told to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from schemas.records import Policy
from streamer.steps.parity import parity_error
from tests.streamer.steps.world import event, record, run, user_step

POLICY = Policy(history_capacity=12)


def audited(solver: Any, *, fast: bool) -> tuple[Any, dict[bytes, bytes], list[Any]]:
    step, rows = user_step(POLICY, solver, fast=fast), dict[bytes, bytes]()
    step._audit = lambda: True
    bodies = [event(user_id=f"u{n % 5}", request_id=f"r{n}", item_id=f"i{n % 11}") for n in range(40)]
    return step, rows, run(step, [record(n, body) for n, body in enumerate(bodies)], [11, 12, 30], rows)


@pytest.mark.parametrize(("solver", "fast"), [("cg", True), ("cg", False), ("cholesky", False)])
def test_every_path_is_audited(solver: Any, fast: bool) -> None:
    """Once a batch, and what it finds is within the promise."""
    _, _, done = audited(solver, fast=fast)
    errors = [effects.facts["parity_error"] for effects in done]
    assert len(errors) == 4
    assert max(errors) <= 1e-5
    assert solver == "cg" or max(errors) == 0.0


def test_a_wrong_vector_is_found() -> None:
    """One changed number of a row shows, and one that is not finite shows as infinity."""
    step, rows, _ = audited("cg", fast=False)
    row = bytearray(rows[b"u1"])
    right = np.frombuffer(bytes(row[64:96]), "<f4")
    row[64:68] = (right[:1] * np.float32(1.01)).tobytes()
    found = parity_error(bytes(row), step._items, step._generation)
    assert found == pytest.approx(0.01 * abs(float(right[0])) / float(np.linalg.norm(right)), rel=1e-3)
    row[64:68] = np.float32("nan").tobytes()
    assert parity_error(bytes(row), step._items, step._generation) == np.inf


def test_users_without_a_known_item_are_the_average_one() -> None:
    """Their vector is compared with it."""
    step, rows = user_step(POLICY, "cg"), dict[bytes, bytes]()
    step._audit = lambda: True
    [effects] = run(step, [record(0, event(item_id="never heard of"))], [], rows)
    assert effects.facts["parity_error"] == 0.0


def test_nothing_is_audited_unasked() -> None:
    """The default costs nothing."""
    [effects] = run(user_step(POLICY, "cg"), [record(0, event())], [], {})
    assert "parity_error" not in effects.facts
