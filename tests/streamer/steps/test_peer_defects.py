"""What peers get wrong, one test each: the defect by the peer's own formula, and that it is not ours.

The formulas are written from what the peers published: Oryx 2 (`tests/bench/peers/oryx.py`), incremental SGD (Vinagre
et al. 2014), whose faults flurs, flink-ps and River share, and implicit's least squares. The item side's are in
`test_peer_defects_items.py`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from schemas.outcomes import Outcome, Reason
from schemas.records import DAY_MS, Policy
from streamer.factors.solve import solve_cholesky
from tests.bench.peers.oryx import updated as oryx
from tests.streamer.steps.test_user_step import PATHS, outcomes, published, rows_of
from tests.streamer.steps.world import NOW, event, items, record, run, user_step

POLICY = Policy(history_capacity=12, keys_capacity=16, suppress_capacity=3)
F64 = npt.NDArray[np.float64]

pytestmark = pytest.mark.parametrize(("solver", "fast"), PATHS)


def world(solver: Literal["cg", "cholesky"], fast: bool) -> tuple[Any, Any, F64, F64]:
    view = items(POLICY)
    step = user_step(POLICY, solver, view, fast=fast)
    vectors = view.space.vectors.astype(np.float64)
    return step, view, vectors, vectors.T @ vectors


def vector_of(rows: dict[bytes, bytes], user: bytes = b"ann") -> F64:
    at = sorted(rows).index(user)
    out: F64 = rows_of(rows, POLICY).vector[at].astype(np.float64)
    return out


def test_a_first_event_that_is_a_dislike_never_recommends_the_item(
    solver: Literal["cg", "cholesky"], fast: bool
) -> None:
    """Oryx gives a new user who dislikes an item a vector that scores it above zero."""
    step, _, vectors, gram = world(solver, fast)
    wrong = oryx(gram, None, vectors[3], -1.0)
    assert wrong is not None
    assert wrong @ vectors[3] > 0
    rows: dict[bytes, bytes] = {}
    effects = run(step, [record(0, event(event_type="dislike", item_id="i3"))], [], rows)
    assert outcomes(effects) == {(Outcome.SUPPRESSED, None): 1}
    (fresh,) = published(effects)
    assert fresh.suppressed == ["i3"]
    assert fresh.basis == "average"
    assert fresh.vector == pytest.approx([0.25] * 8)


def test_no_event_of_a_batch_is_lost(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """In an Oryx micro-batch every event starts from the same vector, and the last one written wins."""
    step, view, vectors, gram = world(solver, fast)
    clicks = [record(n, event(request_id=f"r{n}", item_id=f"i{n}", timestamp=NOW - n)) for n in range(6)]
    base = vectors[7] * 0.1
    finals = [oryx(gram, base, vectors[n], 1.0) for n in range(6)]
    assert finals[-1] is not None
    np.testing.assert_array_equal(finals[-1], oryx(gram, base, vectors[5], 1.0))  # five of six are gone
    rows: dict[bytes, bytes] = {}
    effects = run(step, clicks, [], rows)
    (fresh,) = published(effects)
    assert fresh.events == 6
    index = np.arange(6, dtype=np.int32)
    strength = np.array([2.0 ** (-n / POLICY.half_life_ms) for n in range(6)])
    whole = solve_cholesky(view.space, index, 1 + POLICY.alpha * np.log1p(strength), POLICY.rhs)
    np.testing.assert_allclose(vector_of(rows), whole, rtol=2e-5, atol=1e-6)


def test_a_redelivery_moves_nothing(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """Incremental SGD and Oryx take another step each time that a record is delivered."""
    step, _, vectors, gram = world(solver, fast)
    once = oryx(gram, vectors[7] * 0.1, vectors[0], 1.0)
    twice = oryx(gram, once, vectors[0], 1.0)
    assert once is not None
    assert twice is not None
    assert np.linalg.norm(twice - once) > 1e-4
    rows: dict[bytes, bytes] = {}
    clicks = [record(n, event(request_id=f"r{n}", item_id=f"i{n}")) for n in range(5)]
    run(step, clicks, [2], rows)
    before = dict(rows)
    again = run(step, [record(9 + n, event(request_id=f"r{n}", item_id=f"i{n}")) for n in range(5)], [3], rows)
    assert rows == before
    assert outcomes(again) == {(Outcome.DUPLICATE, None): 5}


def test_the_order_of_arrival_is_nothing(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """Steps from wherever the vector is depend on the order; a solve over the history does not."""
    _, view, vectors, gram = world(solver, fast)
    bodies = [event(request_id=f"r{n}", item_id=f"i{n}", timestamp=NOW - n * DAY_MS) for n in range(6)]

    def stepped(order: list[int]) -> F64:
        x: F64 | None = None
        for at in order:
            moved = oryx(gram, x, vectors[at], 1.0)
            x = x if moved is None else moved
        assert x is not None
        return x

    there, back = list(range(6)), list(reversed(range(6)))
    assert np.linalg.norm(stepped(there) - stepped(back)) > 1e-2
    found = []
    for order in (there, back):
        rows: dict[bytes, bytes] = {}
        step = user_step(POLICY, solver, view, fast=fast)
        run(step, [record(offset, bodies[at]) for offset, at in enumerate(order)], [3], rows)
        found.append(vector_of(rows))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_a_click_more_still_counts_when_the_score_is_one(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """Oryx does nothing once the score has reached 1; strength goes on growing here."""
    step, _, vectors, gram = world(solver, fast)
    content = vectors[0] / (vectors[0] @ vectors[0]) * 1.01
    assert oryx(gram, content, vectors[0], 5.0) is None
    rows: dict[bytes, bytes] = {}
    run(step, [record(n, event(request_id=f"r{n}", item_id=f"i{n}")) for n in range(3)], [], rows)
    before = vector_of(rows) @ vectors[0]
    run(step, [record(9, event(request_id="more", item_id="i0", event_type="purchase", value=50))], [], rows)
    assert vector_of(rows) @ vectors[0] > before


def test_a_return_takes_back_what_a_purchase_gave(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """Peers without a history cannot un-learn: here the vector is that of somebody who never bought it."""
    step, view, _, _ = world(solver, fast)
    with_it = [event(request_id=f"r{n}", item_id=f"i{n}", timestamp=NOW - 10 * n) for n in range(4)]
    bought = event(request_id="buy", item_id="i9", event_type="purchase", timestamp=NOW - 100)
    returned = event(request_id="back", item_id="i9", event_type="return", timestamp=NOW - 50)
    rows: dict[bytes, bytes] = {}
    bodies = [bought, *with_it, returned]
    run(step, [record(offset, body) for offset, body in enumerate(bodies)], [2], rows)
    other: dict[bytes, bytes] = {}
    never = user_step(POLICY, solver, view, fast=fast)
    run(never, [record(offset, body) for offset, body in enumerate(with_it)], [], other)
    np.testing.assert_allclose(vector_of(rows), vector_of(other), rtol=1e-5, atol=1e-6)


def test_an_unknown_item_poisons_nothing(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """Peers grow a random row for it, or stop; here it waits in the history, and the vector is that of the others."""
    step, view, _, _ = world(solver, fast)
    rows: dict[bytes, bytes] = {}
    known = [event(request_id=f"r{n}", item_id=f"i{n}") for n in range(3)]
    strange = event(request_id="s", item_id="never-seen")
    effects = run(step, [record(offset, body) for offset, body in enumerate([*known, strange])], [], rows)
    assert outcomes(effects) == {(Outcome.APPLIED, None): 4}
    other: dict[bytes, bytes] = {}
    run(user_step(POLICY, solver, view, fast=fast), [record(n, body) for n, body in enumerate(known)], [], other)
    np.testing.assert_allclose(vector_of(rows), vector_of(other), rtol=1e-5, atol=1e-6)
    assert len(view.space.ids) == 20


def test_two_spaces_never_mix(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """Oryx overwrites one model's vectors by the next one's bit by bit; here each says whose it is.

    The first event in the new space solves the whole history anew in it.
    """
    _, old, _, _ = world(solver, fast)
    new = items(POLICY, seed=1)
    rows: dict[bytes, bytes] = {}
    clicks = [record(n, event(request_id=f"r{n}", item_id=f"i{n}")) for n in range(4)]
    run(user_step(POLICY, solver, old, fast=fast, model_version="m1"), clicks[:3], [], rows)
    before = vector_of(rows)
    effects = run(user_step(POLICY, solver, new, fast=fast, model_version="m2"), clicks[3:], [], rows)
    assert published(effects)[0].model_version == "m2"
    index = np.arange(4, dtype=np.int32)
    exact = solve_cholesky(new.space, index, np.full(4, 1 + POLICY.alpha * math.log1p(1.0)), POLICY.rhs)
    np.testing.assert_allclose(vector_of(rows), exact, rtol=2e-5, atol=1e-6)
    assert np.linalg.norm(before - vector_of(rows)) > 0.1


def test_scores_do_not_drift_to_one_everywhere(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """SGD on positives alone raises what was never liked as well: the unobserved pairs of the equation hold it down."""
    _, view, vectors, _ = world(solver, fast)
    x = np.full(8, 0.1)
    moved = vectors.copy()
    for _ in range(200):
        for at in range(10):
            error = 1 - x @ moved[at]
            x, moved[at] = x + 0.1 * (error * moved[at] - 0.001 * x), moved[at] + 0.1 * (error * x - 0.001 * moved[at])
    assert (moved[:10] @ x).min() > 0.9
    rows: dict[bytes, bytes] = {}
    step = user_step(POLICY, solver, view, fast=fast)
    for turn in range(3):
        bodies = [event(request_id=f"{turn}-{n}", item_id=f"i{n}", timestamp=NOW + turn) for n in range(10)]
        run(step, [record(10 * turn + n, body) for n, body in enumerate(bodies)], [], rows)
    scores = vectors @ vector_of(rows)
    assert scores[:10].mean() > 3 * abs(scores[10:].mean())


def test_what_is_new_does_not_drive_out_what_was(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """Fed with the new events alone, as its users do, implicit's partial_fit_users forgets all the others."""
    step, view, vectors, gram = world(solver, fast)
    rows: dict[bytes, bytes] = {}
    clicks = [record(n, event(request_id=f"r{n}", item_id=f"i{n}")) for n in range(8)]
    run(step, clicks, [7], rows)
    c = 1 + POLICY.alpha * math.log1p(1.0)
    lone = vectors[7:8]
    forgetful = np.linalg.solve(gram + POLICY.ridge * np.eye(8) + (c - 1) * lone.T @ lone, c * lone[0])
    whole = solve_cholesky(view.space, np.arange(8, dtype=np.int32), np.full(8, c), POLICY.rhs)
    np.testing.assert_allclose(vector_of(rows), whole, rtol=2e-5, atol=1e-6)
    assert np.linalg.norm(forgetful - whole) > 0.5 * np.linalg.norm(whole)


def test_a_weak_event_never_counts_against_its_item(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """The c = alpha r of implicit falls below 1, and the pair then weighs less than one that was never seen."""
    step, _, vectors, gram = world(solver, fast)
    c, y = 0.01, vectors[0]
    whole = gram + POLICY.ridge * np.eye(8)
    assert np.linalg.eigvalsh(whole + (c - 1) * np.outer(y, y)).min() < np.linalg.eigvalsh(whole).min()
    rows: dict[bytes, bytes] = {}
    run(step, [record(0, event(item_id="i0", event_type="view", value=0.01))], [], rows)
    peer = c * y @ np.linalg.solve(whole + (c - 1) * np.outer(y, y), y)
    assert vector_of(rows) @ y > 10 * peer


def test_a_purchase_counts_more_than_a_view(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """Python's eALS and flurs take every online event for a 1, whatever it was."""
    _, view, vectors, _ = world(solver, fast)
    found = []
    for kind in ("view", "purchase"):
        rows: dict[bytes, bytes] = {}
        run(user_step(POLICY, solver, view, fast=fast), [record(0, event(event_type=kind, item_id="i0"))], [], rows)
        found.append(vector_of(rows) @ vectors[0])
    assert found[1] > 1.2 * found[0]


def test_a_dislike_never_raises_the_score(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """flink-ps steps by sigmoid(r - x.y), above zero for a negative too, so that a negative pushes the score up."""
    step, _, vectors, _ = world(solver, fast)
    x = vectors[7] * 0.1
    error = 1 / (1 + math.exp(x @ vectors[3]))
    assert (x + 0.1 * error * vectors[3]) @ vectors[3] > x @ vectors[3]
    rows: dict[bytes, bytes] = {}
    run(step, [record(n, event(request_id=f"r{n}", item_id=f"i{n}")) for n in range(3)], [], rows)
    before = vector_of(rows) @ vectors[3]
    effects = run(step, [record(9, event(request_id="no", event_type="dislike", item_id="i3"))], [], rows)
    assert vector_of(rows) @ vectors[3] <= before + 1e-6
    assert published(effects)[0].suppressed == ["i3"]


def test_a_bad_line_stops_nobody(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """One line that Oryx cannot parse fails its whole batch; here it is a dead letter, and the others are applied."""
    step, _, _, _ = world(solver, fast)
    rows: dict[bytes, bytes] = {}
    good = [record(n, event(request_id=f"r{n}", item_id=f"i{n}")) for n in (0, 2)]
    bad = record(1, event(), value=b"ann,i1,not a number")
    effects = run(step, [good[0], bad, good[1]], [], rows)
    assert outcomes(effects) == {(Outcome.APPLIED, None): 2, (Outcome.DEAD_LETTER, Reason.NOT_JSON): 1}
    assert published(effects)[0].events == 2


def test_decay_asks_no_clock(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """Oryx's decay asks for the time of day, so a log gives another model each day; here it gives the same bytes."""
    _, view, _, _ = world(solver, fast)
    bodies = [event(request_id=f"r{n}", item_id=f"i{n}", timestamp=NOW - n * DAY_MS) for n in range(5)]
    found = []
    for later in (0, 2 * DAY_MS):
        rows: dict[bytes, bytes] = {}
        records = [record(n, body, timestamp=NOW + later) for n, body in enumerate(bodies)]
        run(user_step(POLICY, solver, view, fast=fast), records, [], rows)
        found.append(rows)
    assert found[0] == found[1]


def test_nobody_has_to_wait_for_the_next_fit(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """Gorse skips a user without a vector until it fits again, MyMediaLite begins at random; here one event is enough.

    And the same one gives the same bytes, whenever it comes.
    """
    _, view, vectors, _ = world(solver, fast)
    found = []
    for _ in range(2):
        rows: dict[bytes, bytes] = {}
        effects = run(user_step(POLICY, solver, view, fast=fast), [record(0, event(item_id="i4"))], [], rows)
        assert published(effects)[0].basis == "history"
        assert vector_of(rows) @ vectors[4] > 0.05
        found.append(rows)
    assert found[0] == found[1]


def test_an_event_without_effect_leaves_no_row(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """River makes a row for whoever it is asked about: unbounded. Here only an effect makes one."""
    step, _, _, _ = world(solver, fast)
    rows: dict[bytes, bytes] = {}
    bodies = [
        event(user_id="bot", traffic="bot"),
        event(user_id="no", consent=False),
        event(user_id="old", timestamp=NOW - 60 * DAY_MS),
        event(user_id="odd", event_type="report"),
    ]
    effects = run(step, [record(n, body) for n, body in enumerate(bodies)], [], rows)
    assert sum(outcomes(effects).values()) == 4
    assert rows == {}


def test_an_item_that_gets_its_vector_later_counts_from_then_on(solver: Literal["cg", "cholesky"], fast: bool) -> None:
    """Oryx drops a new user's event with a new item for good; here it is kept, and counts once the item is known."""
    step, view, _, _ = world(solver, fast)
    rows: dict[bytes, bytes] = {}
    run(step, [record(0, event(item_id="fresh"))], [], rows)
    vector = np.random.default_rng(5).standard_normal((1, 8)).astype(np.float32)
    view.put(["fresh"], [1], vector)
    run(step, [record(1, event(request_id="r2", item_id="i0"))], [], rows)
    both = np.array([view.space.index_of("fresh"), 0], np.int32)
    whole = solve_cholesky(view.space, both, np.full(2, 1 + POLICY.alpha * math.log1p(1.0)), POLICY.rhs)
    np.testing.assert_allclose(vector_of(rows), whole, rtol=2e-5, atol=1e-6)
