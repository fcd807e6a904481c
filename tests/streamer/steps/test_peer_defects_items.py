"""What peers get wrong with item vectors, one test each: the defect by the peer's formula, and that it is not ours."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from schemas.layouts import decode_item_row, encode_signals
from schemas.records import Policy
from streamer.events.hashes import generation_id
from streamer.factors.sgd import apply_signals
from streamer.steps.item import ItemStep, ItemTopics
from tests.bench.peers.oryx import updated as oryx
from tests.streamer.steps.world import FakeRecord, items, manifest

POLICY = Policy(sgd_rate=0.05)
F64 = npt.NDArray[np.float64]


def moved(policy: Policy, y: F64, x: F64, confidence: float = 1.0) -> F64:
    """An item's vector after one signal."""
    new, _ = apply_signals(
        y[None].astype(np.float32),
        np.zeros(1, np.intp),
        x[None].astype(np.float32),
        np.array([confidence]),
        policy,
    )
    wide: F64 = new[0].astype(np.float64)
    return wide


def signal(offset: int, vector: F64) -> FakeRecord:
    """A signal for the item i0."""
    (value,) = encode_signals(
        confidence=np.array([2.0]),
        event_time=np.array([offset]),
        user=np.array([offset + 1], np.uint64),
        generation=generation_id("m1"),
        vector=vector[None].astype(np.float32),
    )
    return FakeRecord(b"i0", value, offset)


def applied(vectors: F64, cuts: list[int]) -> F64:
    """The vector of i0 after signals of these users (n, 8), cut into batches."""
    step = ItemStep(manifest(POLICY), items(POLICY), ItemTopics("t.signals", "t.items"), encoding="json", source="test")
    row: bytes | None = None
    bounds = [0, *cuts, len(vectors)]
    for low, high in pairwise(bounds):
        batch = step.read([signal(at, vectors[at]) for at in range(low, high)], 0)
        ((_, row),) = step.apply(batch, [row]).rows
    assert row is not None
    wide: F64 = decode_item_row(row, dimension=8).vector.astype(np.float64)
    return wide


def test_no_signal_of_a_batch_is_lost() -> None:
    """Of an Oryx micro-batch an item, too, keeps the last change alone."""
    users = np.random.default_rng(1).standard_normal((4, 8)) * 0.3
    start = items(POLICY).space.vectors[0].astype(np.float64)
    gram = np.eye(8)
    finals = [oryx(gram, start, x, 1.0) for x in users]
    assert finals[-1] is not None
    assert sum(final is not None for final in finals) > 1
    together = applied(users, [])
    np.testing.assert_array_equal(together, applied(users, [1, 2, 3]))
    assert np.linalg.norm(together - applied(users[-1:], [])) > 1e-3


def test_regularisation_pulls_towards_zero() -> None:
    """Flurs' BPR adds λ times the vector where it should take it away."""
    y = np.full(8, 0.5)
    content = y / (y @ y)  # the score is 1: nothing but the regularisation is left
    flurs = y + 0.05 * 0.1 * y
    assert np.linalg.norm(flurs) > np.linalg.norm(y)
    after = moved(msgspec.structs.replace(POLICY, sgd_reg=0.1), y, content)
    np.testing.assert_allclose(after, y * (1 - 0.05 * 0.1), rtol=1e-6)


def test_no_signal_throws_an_item_out_of_its_place() -> None:
    """Incremental SGD diverges where the rate times the confidence is large; here a step is clipped."""
    y, x = np.full(8, 0.5), np.full(8, 2.0)
    wild = y.copy()
    for _ in range(6):
        wild = wild + 0.05 * 40 * (1 - x @ wild) * x
    assert np.linalg.norm(wild) > 1e6
    calm = y.copy()
    for _ in range(6):
        before, calm = calm, moved(POLICY, calm, x, confidence=40.0)
        assert np.linalg.norm(calm - before) <= POLICY.sgd_clip * (1 + 1e-6)


def test_a_score_that_is_reached_is_not_pushed_on() -> None:
    """flink-ps' error is a sigmoid, never zero: it pushes a positive's score on for ever."""
    y = np.full(8, 0.5)
    x = y / (y @ y) * 1.5  # the score is 1.5
    flink = y + 0.05 / (1 + np.exp(-(1 - x @ y))) * x
    assert flink @ x > y @ x
    assert moved(msgspec.structs.replace(POLICY, sgd_reg=0.0), y, x) @ x < y @ x
