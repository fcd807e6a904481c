"""Samples become metrics and alarms, within the time that is granted, and nobody waits for it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from schemas.records import Policy, Reference, Retrain
from streamer.factors.frozen import FrozenItems
from streamer.settings import Quality as QualitySettings
from streamer.steps.sampled import Sampled, Trials
from streamer.telemetry.metrics import Metrics
from streamer.telemetry.quality import Allowance, Quality
from tests.streamer.steps.world import items, manifest

POLICY = Policy()
VECTORS = items(POLICY).space.vectors


class Clock:
    """Goes on when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def quality(clock: Clock, *, reference: Reference | None = None, **settings: Any) -> Quality:
    made = Quality(QualitySettings(**{"cpu": 1.0} | settings), Metrics(), clock)
    about = manifest(POLICY)
    made.serve(about if reference is None else msgspec.structs.replace(about, reference=reference), items(POLICY))
    return made


def value(of: Quality, name: str, **labels: str) -> float | None:
    return of._metrics.registry.get_sample_value(f"factors_{name}", labels)


def sample(*wanted: int, kind: str = "click", model_version: str = "m1") -> Sampled:
    """Events of users whose vector is the vector of the item that they act on: each is foretold."""
    index = np.array(wanted, np.int64)
    vectors = 10 * VECTORS[index]
    nothing = np.zeros((len(index), 1))
    trials = Trials(
        index,
        vectors,
        VECTORS[index],
        nothing.astype(np.int32) - 1,
        nothing.astype(np.float32),
        nothing.astype(np.int64),
        nothing.astype(bool),
        nothing[:, 0].astype(np.int64),
        nothing.astype(np.uint32),
        nothing[:, 0].astype(bool),
    )
    return Sampled(model_version, index, [kind] * len(index), index, trials)


def test_ratings_are_not_judged_and_that_is_said_once(clock: Clock) -> None:
    """One line; their samples, if any, count as not judged."""
    policy = Policy(feedback="explicit")
    about = msgspec.structs.replace(manifest(POLICY), policy=policy, global_mean=3.0, average_bias=0.0)
    judged = Quality(QualitySettings(cpu=1.0), Metrics(), clock)
    with capture_logs() as lines:
        judged.serve(about, items(policy))
    judged.take(sample(1, 2))
    assert [line["event"] for line in lines] == ["not_judged"]
    assert judged.prequential.report() == {}


def test_metrics_of_what_was_judged(clock: Clock) -> None:
    """Recall, NDCG, how many, by users; the report counts hits by generation."""
    judged = quality(clock, k=1)
    # Items that score highest of all with their own vector.
    one, other, *_ = np.flatnonzero((VECTORS @ VECTORS.T).argmax(axis=1) == np.arange(20)).tolist()
    judged.take(sample(one, other))
    assert value(judged, "prequential_recall", model="live") == pytest.approx(1.0)
    assert value(judged, "prequential_ndcg", model="live") == pytest.approx(1.0)
    assert value(judged, "prequential_recall", model="popularity") == 0.0
    assert value(judged, "prequential_users_recall", model="live", users="new") == pytest.approx(1.0)
    assert math.isnan(value(judged, "prequential_users_recall", model="live", users="known") or math.nan)
    assert value(judged, "prequential_judged_total", users="new") == 2
    assert judged.prequential.report() == {"m1": (2, 2)}
    # The items became popular after they were judged, not before.
    judged.take(sample(one))
    assert value(judged, "prequential_recall", model="popularity") == pytest.approx(1 / 3, rel=0.01)


def test_a_canary_is_not_in_the_exported_numbers_and_a_cut_begins_anew(clock: Clock) -> None:
    """Each generation is judged, and its hits are reported apart; what is exported is of the served one alone."""
    judged = quality(clock)
    other = manifest(POLICY, model_version="m2")
    judged.judge_too(other, items(POLICY))
    judged.take(sample(1, 2))
    strange = sample(3, 4, model_version="m2")
    assert strange.trials is not None
    strange.trials.vector[:] *= -1
    judged.take(strange)
    assert value(judged, "prequential_recall", model="live") == 1.0
    assert judged.prequential.report() == {"m1": (2, 2), "m2": (2, 0)}
    judged.serve(other, items(POLICY))
    assert value(judged, "prequential_recall", model="live") is None
    assert value(judged, "prequential_users_recall", model="live", users="new") is None
    judged.take(sample(1, 2))
    assert value(judged, "prequential_recall", model="live") is None
    judged.take(strange)
    assert value(judged, "prequential_recall", model="live") == 0.0
    assert value(judged, "prequential_live_recall") == 0.0


def test_a_frozen_model_that_is_lost_is_left_out_and_that_is_said_once(clock: Clock) -> None:
    """One line, and no number in its place; the other two are judged."""
    view = items(POLICY)
    with capture_logs() as lines:
        judged = quality(clock)
    assert [line["event"] for line in lines] == ["frozen_not_judged"]
    judged.take(sample(1))
    assert value(judged, "prequential_recall", model="frozen") is None
    assert value(judged, "prequential_recall", model="popularity") is not None
    view.trained = FrozenItems(view.space, view.space.ids)
    with capture_logs() as lines:
        judged.serve(manifest(POLICY), view)
    assert lines == []
    judged.take(sample(1))
    assert value(judged, "prequential_recall", model="frozen") is not None


def test_what_can_not_be_compared_is_counted(clock: Clock) -> None:
    """A past that was touched since: judged, and in nobody's recall."""
    view = items(POLICY)
    view.trained = FrozenItems(view.space, view.space.ids)
    judged = quality(clock)
    judged.serve(msgspec.structs.replace(manifest(POLICY), training_data_end=10_000), view)
    touched = sample(1)
    trials = touched.trials
    assert trials is not None
    trials.history[:], trials.used[:], trials.time[:], trials.key_time[:] = 3, True, 20_000, 7
    trials.strength[:] = 1
    # One event's key is of the training data's time, and no entry is.
    judged.take(touched)
    assert value(judged, "prequential_not_comparable_total") == 1
    assert value(judged, "prequential_judged_total", users="known") == 1
    assert math.isnan(value(judged, "prequential_recall", model="live") or math.nan)
    assert value(judged, "prequential_live_recall") == 1.0


def test_a_generation_that_is_not_served_is_not_judged(clock: Clock) -> None:
    """Its numbers would mean other items."""
    judged = quality(clock)
    judged.take(sample(1, model_version="m2"))
    assert judged.prequential.report() == {}
    assert value(judged, "prequential_skipped_total") == 1
    judged.retire("m1")
    judged.take(sample(1))
    assert judged.prequential.report() == {}


def test_no_more_than_so_many_a_second(clock: Clock) -> None:
    """What is beyond is counted, and the next second there is room again; popularity counts everything."""
    judged = quality(clock, per_second=4)
    for _ in range(3):
        judged.take(sample(1, 2))
    assert judged.prequential.report() == {"m1": (4, 4)}
    assert value(judged, "prequential_skipped_total") == 2
    clock.now += 1
    judged.take(sample(1, 2, 3))
    assert judged.prequential.report()["m1"][0] == 7
    assert judged._judges["m1"]._counts[:4].tolist() == [0, 4, 4, 1]


def test_no_more_than_a_share_of_the_time(clock: Clock) -> None:
    """A second of work at a twentieth is paid for by the next twenty."""
    allowance = Allowance(1_000, 0.05, clock)
    assert allowance.grants(10)
    allowance.spend(10, 1.0)
    clock.now += 18
    assert not allowance.grants(1)
    clock.now += 2
    assert allowance.grants(1)


def test_one_large_batch_is_granted_on_credit(clock: Clock) -> None:
    """Else it never would be."""
    allowance = Allowance(5, 1.0, clock)
    assert allowance.grants(500)
    allowance.spend(500, 0.0)
    clock.now += 50
    assert not allowance.grants(1)
    clock.now += 50
    assert allowance.grants(1)


def test_a_shift_of_types_is_told_once_and_asks_once_an_hour(clock: Clock) -> None:
    """PSI against the manifest's reference; after the patience one line, one wish, and the alarm ends by itself."""
    reference = Reference({"click": 990, "purchase": 10}, {"i1": 500, "i2": 500}, 1_000)
    judged = quality(clock, reference=reference, window=100, patience=2)
    wishes: list[Retrain] = []
    judged.ask = wishes.append

    def window(kind: str) -> None:
        for _ in range(10):
            clock.now += 1
            judged.take(sample(*[1, 2] * 5, kind=kind))

    window("click")
    assert value(judged, "drift_psi", feature="event_types") == pytest.approx(0.0, abs=0.05)
    assert value(judged, "drift_alarm", feature="event_types") == 0
    with capture_logs() as told:
        window("purchase")
        assert not wishes
        window("purchase")
        window("purchase")
    assert [(line["event"], line["feature"]) for line in told] == [("drift", "event_types")]
    assert value(judged, "drift_alarm", feature="event_types") == 1
    assert value(judged, "drift_alarm", feature="item_popularity") == 0
    assert [(wish.feature, wish.model_version) for wish in wishes] == [("event_types", "m1")]
    assert wishes[0].value > 1
    clock.now += 3_600
    window("purchase")
    assert len(wishes) == 2
    window("click")
    assert value(judged, "drift_alarm", feature="event_types") == 0


def test_a_shift_of_popularity(clock: Clock) -> None:
    """Items that hardly anybody wanted take over; where it is not wanted nobody is asked."""
    reference = Reference({"click": 1_000}, {f"i{n}": 99 for n in range(10)}, 1_000)
    judged = quality(clock, reference=reference, window=200, patience=1)
    rng = np.random.default_rng(0)
    judged.take(sample(*rng.integers(0, 10, 200)))
    judged.take(sample(*rng.integers(0, 10, 200)))
    assert value(judged, "drift_alarm", feature="item_popularity") == 0
    judged.take(sample(*rng.integers(10, 20, 200)))
    assert value(judged, "drift_alarm", feature="item_popularity") == 1
    assert value(judged, "drift_alarm", feature="event_types") == 0


def test_a_rising_loss(clock: Clock) -> None:
    """Events that were foretold no longer are: ADWIN sees it, and the scores' PSI does."""
    judged = quality(clock, window=200, patience=1, per_second=10_000)

    def strange(*wanted: int) -> Sampled:
        good = sample(*wanted)
        assert good.trials is not None
        good.trials.vector[:] *= -1
        return good

    rng = np.random.default_rng(0)
    for _ in range(60):
        clock.now += 10
        judged.take(sample(*rng.integers(0, 20, 10)))
    assert value(judged, "drift_alarm", feature="loss") == 0
    assert value(judged, "drift_alarm", feature="scores") == 0
    for _ in range(20):
        clock.now += 10
        judged.take(strange(*rng.integers(0, 20, 10)))
    assert value(judged, "drift_alarm", feature="loss") == 1
    assert value(judged, "drift_alarm", feature="scores") == 1


@pytest.fixture
def running(clock: Clock) -> Iterator[Quality]:
    judged = quality(clock)
    judged.start()
    yield judged
    judged.stop()


def test_the_thread_takes_what_is_offered_and_survives_a_failure(running: Quality) -> None:
    """A sample that cannot be judged is a line in the log; the next one counts."""
    done = threading.Event()
    taken = running.take

    def take(sampled: Sampled) -> None:
        taken(sampled)
        if sampled.model_version == "m1":
            done.set()

    running.take = take  # type: ignore[method-assign]
    running.offer(Sampled("m1", np.array([1]), ["no such type"], np.array([1])))
    running.offer(sample(1))
    assert done.wait(30)
    assert running.prequential.report() == {"m1": (1, 1)}


def test_what_always_fails_is_given_up(running: Quality) -> None:
    """Ten lines in the log, not one a batch for ever."""
    for _ in range(12):
        running.offer(Sampled("m1", np.array([1]), ["no such type"], np.array([1])))
    running.offer(sample(1))
    running.stop()
    assert running.prequential.report() == {}


def test_a_full_queue_is_no_reason_to_wait(clock: Clock) -> None:
    """Nobody takes anything: the offers return, and what is lost is counted; it can still be stopped."""
    judged = quality(clock)
    one = sample(1)
    for _ in range(600):
        judged.offer(one)
    assert value(judged, "prequential_skipped_total") == 600 - 512
    judged.start()
    judged.stop()
    assert not judged._thread.is_alive()
