"""The sample is what was known before each event, whatever the batches; the judge ranks as a slow twin does."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.layouts import HEAD
from schemas.outcomes import Outcome
from schemas.records import DAY_MS, Manifest, Policy, Reference
from streamer.factors.frozen import FrozenItems
from streamer.factors.solve import solve_cholesky
from streamer.factors.weigh import confidence_now
from streamer.steps import prequential
from streamer.steps.items import Items
from streamer.steps.judge import MODELS, Judge, Judged
from streamer.steps.sampled import Sampled, Trials
from streamer.steps.tally import Fading, Prequential
from streamer.steps.user import UserStep
from tests.streamer.steps.world import NOW, TOPICS, FakeRecord, event, items, manifest, record, run, user_step

POLICY = Policy(history_capacity=12, keys_capacity=12)


def sampling(share: float = 1.0, *, fast: bool = False, **options: object) -> UserStep:
    """A user step that samples; exact by default, so that its vectors do not depend on batches."""
    return user_step(POLICY, "cg" if fast else "cholesky", fast=fast, sample=share, **options)  # type: ignore[arg-type]


def trials_of(step: UserStep, records: list[FakeRecord], cuts: list[int]) -> list[tuple[object, ...]]:
    """What each judged event was judged by, in log order for each user."""
    found = []
    for effects in run(step, records, cuts, {}):
        trials: Any = effects.sampled[0].trials if effects.sampled else None
        for at in range(0 if trials is None else len(trials)):
            used = trials.used[at]
            found.append(
                (
                    int(trials.item[at]),
                    trials.vector[at].tobytes(),
                    trials.target[at].tobytes(),
                    trials.history[at, used].tobytes(),
                    trials.strength[at, used].tobytes(),
                    trials.time[at, used].tobytes(),
                )
            )
    return sorted(found)


EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.sampled_from(["ann", "bob", "cem"]),
            "item_id": st.sampled_from([f"i{n}" for n in range(20)] + ["unknown"]),
            "event_type": st.sampled_from(["click", "like", "purchase", "hide", "return"]),
            "request_id": st.integers(0, 30).map(str),
            "timestamp": st.integers(NOW - DAY_MS, NOW),
        }
    ),
    max_size=25,
)


@settings(max_examples=25)
@given(EVENTS, st.lists(st.integers(0, 25), max_size=4), st.sampled_from([0.3, 1.0]))
def test_the_sample_does_not_depend_on_batches(bodies: list[dict[str, object]], cuts: list[int], share: float) -> None:
    """The same events, each with the same row before it, to the last bit."""
    records = [record(number, event(**body)) for number, body in enumerate(bodies)]
    one_by_one = list(range(len(records)))
    assert trials_of(sampling(share), records, cuts) == trials_of(sampling(share), records, one_by_one)


def test_each_event_of_a_burst_is_judged_by_what_the_ones_before_it_left() -> None:
    """Thirty events of two users in one batch, among them duplicates, are as thirty batches."""
    rng = np.random.default_rng(0)
    records = [
        record(
            number,
            event(
                user_id=f"u{number % 2}",
                item_id=f"i{rng.integers(20)}",
                request_id=f"{rng.integers(40)}",
                event_type="hide" if number % 7 == 3 else "like",
                timestamp=NOW - number,
            ),
        )
        for number in range(30)
    ]
    whole = trials_of(sampling(), records, [])
    assert len(whole) > 12
    assert whole == trials_of(sampling(), records, list(range(30)))


def test_only_what_was_applied_to_a_known_item_that_is_new_is_judged() -> None:
    """Not a duplicate, a second click, an unknown or a hidden item; types count hides too, items the unknown."""
    bodies = [
        event(item_id="i1", request_id="1"),
        event(item_id="i1", request_id="1"),
        event(item_id="i1", request_id="2"),
        event(item_id="unknown", request_id="3"),
        event(item_id="i2", request_id="4", event_type="hide"),
        event(item_id="i3", request_id="5", event_type="purchase"),
    ]
    (effects,) = run(sampling(), [record(number, body) for number, body in enumerate(bodies)], [], {})
    (sampled,) = effects.sampled
    assert effects.outcomes[Outcome.DUPLICATE, None] == 1
    assert sampled.trials.item.tolist() == [1, 3]
    assert sampled.types == ["click", "click", "click", "hide", "purchase"]
    assert sampled.items.tolist() == [1, 1, -1, 3]
    assert sorted(sampled.applied.tolist()) == [1, 1, 3]


def test_an_item_that_is_banned_while_the_batch_waits() -> None:
    """It was read before: the sample does not ask again, and the batch goes on."""
    view = items(POLICY)
    step = sampling(view=view)
    batch = step.read([record(0, event(item_id="i1"))], 0)
    view.invalid.add("i1")
    effects = step.apply(batch, [None])
    assert [sampled.types for sampled in effects.sampled] == [["click"]]


def test_who_has_no_row_is_the_average_user() -> None:
    """And the vector is the one before the event, not the one that it makes."""
    rows: dict[bytes, bytes] = {}
    step = sampling()
    (first,) = run(step, [record(0, event(item_id="i1", request_id="1"))], [], rows)
    assert first.sampled[0].trials.vector.tolist() == [[0.25] * 8]
    before = np.frombuffer(rows[b"ann"][HEAD.itemsize : HEAD.itemsize + 32], "<f4")
    (second,) = run(step, [record(1, event(item_id="i2", request_id="2"))], [], rows)
    assert second.sampled[0].trials.vector.tobytes() == before.tobytes()


def test_rows_of_another_generation_are_left_out() -> None:
    """Their vectors lie in another space."""
    rows: dict[bytes, bytes] = {}
    run(sampling(), [record(0, event(item_id="i1", request_id="1"))], [], rows)
    (effects,) = run(sampling(model_version="m2"), [record(1, event(item_id="i2", request_id="2"))], [], rows)
    assert effects.sampled[0].trials is None
    assert effects.sampled[0].types == ["click"]


@pytest.mark.parametrize("fast", [False, True])
def test_the_share_is_what_is_asked_for(fast: bool) -> None:
    """By request id: a tenth of 3,000 events, the same ones on both paths; none of it at 0."""
    records = [
        record(number, event(user_id=f"u{number}", item_id=f"i{number % 20}", request_id=f"r{number}"))
        for number in range(3_000)
    ]
    cuts = list(range(0, 3_000, 500))
    found = [done.sampled[0] for done in run(sampling(0.1, fast=fast), records, cuts, {})]
    assert 230 < sum(len(one.types) for one in found) < 370
    assert sum(len(one.applied) for one in found) == 3_000
    again = [done.sampled[0] for done in run(sampling(0.1), records, cuts, {})]
    assert [one.items.tolist() for one in found] == [one.items.tolist() for one in again]
    assert run(sampling(0.0), records[:10], [], {})[0].sampled == []


def test_a_flood_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One user's hundred events in a batch are judged up to a bound, and so is a batch."""
    records = [record(number, event(item_id=f"i{number % 20}", request_id=f"r{number}")) for number in range(20)]
    monkeypatch.setattr(prequential, "_EARLIER", 4)
    (effects,) = run(sampling(), records, [], {})
    assert len(effects.sampled[0].trials) == 5
    monkeypatch.setattr(prequential, "_MOST", 3)
    (effects,) = run(sampling(), records, [], {})
    assert len(effects.sampled[0].trials) == 3
    assert len(effects.sampled[0].types) == 20


# --- what is judged is what is published ----------------------------------------------------------------------------

BLENDED = Policy(
    history_capacity=12,
    keys_capacity=12,
    session_weight=0.3,
    session_gap_ms=1_000,
    blend_events=4,
    segment_key="device",
)
SERVED = msgspec.structs.replace(manifest(BLENDED), segments={"tv": [0.5] * 8, "phone": [-0.5] * 8})


def blending(**options: Any) -> UserStep:
    """A user step that publishes more than the long-term vector, and samples."""
    return user_step(BLENDED, "cholesky", fast=False, sample=1.0, made=SERVED, **options)


def published(effects: Any) -> list[float]:
    """The one vector that these effects publish."""
    ((_, value, _, _),) = effects.sends[TOPICS.user_factors, 0]
    return [float(np.float32(number)) for number in json.loads(value)["vector"]]


def test_the_published_vector_is_judged() -> None:
    """Session, blend and segment in it: each event by the record that a consumer had before it."""
    rows: dict[bytes, bytes] = {}
    step, before, seen = blending(), list[float](), 0
    for number in range(8):
        device = "tv" if number < 5 else "phone"
        body = event(
            item_id=f"i{number}", request_id=f"{number}", context={"device": device}, timestamp=NOW + 600 * number
        )
        (effects,) = run(step, [record(number, body)], [], rows)
        if number:
            assert effects.sampled[0].trials.vector.tolist() == [before]
            long_term = np.frombuffer(rows[b"ann"][HEAD.itemsize : HEAD.itemsize + 32], "<f4").tolist()
            seen += before != long_term
        before = published(effects)
    assert seen == 7


def test_who_has_no_record_is_judged_by_the_prior() -> None:
    """Of the event's segment, else of all: what a consumer has for somebody new."""
    bodies = [
        event(user_id=user, request_id=user, context={"device": device})
        for user, device in (("ann", "tv"), ("bob", "phone"), ("cem", "radio"))
    ]
    (effects,) = run(blending(), [record(number, body) for number, body in enumerate(bodies)], [], {})
    assert effects.sampled[0].trials.vector.tolist() == [[0.5] * 8, [-0.5] * 8, [0.25] * 8]
    unsegmented = msgspec.structs.replace(BLENDED, segment_key="")
    made = msgspec.structs.replace(manifest(unsegmented), average_user=[0.0] * 8, popularity_user=[0.75] * 8)
    step = user_step(unsegmented, "cholesky", fast=False, sample=1.0, made=made)
    (effects,) = run(step, [record(0, event())], [], {})
    assert effects.sampled[0].trials.vector.tolist() == [[0.75] * 8]


def test_what_is_published_within_a_burst_is_judged_too() -> None:
    """One batch is as many: also the segment that an earlier event of the batch named."""
    records = [
        record(
            number,
            event(
                user_id=f"u{number % 2}",
                item_id=f"i{number}",
                request_id=f"{number}",
                timestamp=NOW + 400 * number,
                context={"device": "tv"} if number < 2 else {},
            ),
        )
        for number in range(12)
    ]
    assert trials_of(blending(), records, []) == trials_of(blending(), records, list(range(12)))


# --- the judge ------------------------------------------------------------------------------------------------------


def slow_position(scores: np.ndarray, item: int, had: list[int]) -> float:
    """By looking at every item."""
    others = scores[[number for number in range(len(scores)) if number != item and number not in had]]
    better, equal = (sum(bool(test) for test in some) for some in (others > scores[item], others == scores[item]))
    return better + equal / 2


def acts(events: Any) -> dict[str, Any]:
    """Users of so many events, none of whose keys is kept."""
    count = len(events)
    return {
        "events": np.array(events, np.int64),
        "key_time": np.zeros((count, 1), np.uint32),
        "suppressing": np.zeros(count, bool),
    }


def judging(about: Manifest, view: Items) -> Judge:
    """A judge of items that stand as they were trained."""
    view.trained = FrozenItems(view.space, view.space.ids)
    return Judge(about, view)


def trials(rng: np.random.Generator, view: object, count: int, end: int) -> Trials:
    """Trials of made-up users; half of each history is newer than the training data."""
    width, size = 6, 20
    history = np.stack([rng.permutation(size)[: width + 1] for _ in range(count)]).astype(np.int32)
    used = rng.random((count, width)) < 0.7
    return Trials(
        item=history[:, width].astype(np.int64),
        vector=rng.standard_normal((count, 8)).astype(np.float32),
        target=view.space.vectors[history[:, width]],  # type: ignore[attr-defined]
        history=np.where(used, history[:, :width], -1).astype(np.int32),
        strength=rng.random((count, width)).astype(np.float32) + np.float32(0.5),
        time=rng.integers(max(end - 5, 0), end + 6, (count, width)),
        used=used,
        **acts(used.sum(axis=1)),
    )


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_positions_are_those_of_a_slow_twin(seed: int) -> None:
    """Of all three models: live by the vectors as they are, frozen as they were, popularity by the counts."""
    rng = np.random.default_rng(seed)
    view = items(POLICY)
    about = manifest(POLICY)
    judge = judging(about, view)
    frozen = view.space.vectors.copy()
    gramian_space = items(POLICY).space
    view.put(["i3", "i4"], [2, 2], rng.standard_normal((2, 8)).astype(np.float32))
    applied = rng.integers(0, 20, 40)
    judge.count(applied)
    counts = np.bincount(applied, minlength=20)
    some = trials(rng, view, 7, about.training_data_end)
    judged = judge.judge(some)
    for at in range(7):
        item, had = int(some.item[at]), some.history[at][some.history[at] >= 0].tolist()
        popular = slow_position(counts, item, had)
        assert judged.ranks["popularity"][at] == popular
        scores = (view.space.vectors @ some.vector[at]).astype(np.float32)
        assert judged.ranks["live"][at] == slow_position(scores, item, had)
        assert judged.scores[at] == pytest.approx(scores[item], abs=1e-5)
        old = some.used[at] & (some.time[at] <= about.training_data_end)
        assert judged.known[at] == old.any()
        if not old.any():
            assert judged.ranks["frozen"][at] == popular
            continue
        confidence = confidence_now(some.strength[at], some.time[at], old, POLICY)
        user = solve_cholesky(gramian_space, some.history[at, old], confidence[old], POLICY.rhs)
        assert judged.ranks["frozen"][at] == slow_position(frozen @ user, item, had)


def test_an_item_that_came_later_is_unknown_to_the_frozen_model() -> None:
    """Live and popularity rank it; the frozen model cannot foretell it."""
    view = items(POLICY)
    judge = judging(manifest(POLICY), view)
    view.put(["late"], [1], np.full((1, 8), 9, np.float32))
    judge.count(np.array([20, 20]))
    trial = Trials(
        item=np.array([20]),
        vector=np.ones((1, 8), np.float32),
        target=np.full((1, 8), 9, np.float32),
        history=np.array([[3]], np.int32),
        strength=np.ones((1, 1), np.float32),
        time=np.zeros((1, 1), np.int64),
        used=np.ones((1, 1), bool),
        **acts([1]),
    )
    ranks = judge.judge(trial).ranks
    assert (ranks["live"][0], ranks["frozen"][0], ranks["popularity"][0]) == (0.0, np.inf, 0.0)


def test_an_item_that_was_folded_in_before_the_start_is_no_candidate_of_the_frozen_model() -> None:
    """Its row of zeros would stand before whatever scores below 0."""
    view, still = items(POLICY), items(POLICY)
    view.put(["late"], [1], np.full((1, 8), 9, np.float32))
    about = manifest(POLICY)
    some = trials(np.random.default_rng(3), still, 7, about.training_data_end)
    view.trained = FrozenItems(still.space, view.space.ids)
    expected = judging(about, still).judge(some).ranks["frozen"]
    with_history = np.flatnonzero((some.used & (some.time <= about.training_data_end)).any(axis=1))
    assert Judge(about, view).judge(some).ranks["frozen"][with_history].tolist() == expected[with_history].tolist()


def test_an_item_that_moved_meanwhile_is_judged_as_it_was() -> None:
    """It may be the event itself that has moved it towards its user."""
    view = items(POLICY)
    judge = judging(manifest(POLICY), view)
    some = trials(np.random.default_rng(0), view, 1, 7)
    some.vector[:] = -some.target
    before = judge.judge(some).ranks["live"][0]
    view.put([f"i{some.item[0]}"], [2], 9 * some.vector)
    assert judge.judge(some).ranks["live"][0] == before > 0


def test_popularity_begins_with_the_training_data() -> None:
    """As far as the manifest tells; an item that it names and the space lacks is passed over."""
    reference = Reference({"click": 9}, {"i7": 5, "gone": 4}, 9)
    judge = Judge(msgspec.structs.replace(manifest(POLICY), reference=reference), items(POLICY))
    some = trials(np.random.default_rng(0), items(POLICY), 1, 7)
    seventh = Trials(*[getattr(some, name) for name in Trials.__slots__])
    seventh.item[0] = 7
    seventh.history[0] = -1
    assert judge.judge(seventh).ranks["popularity"][0] == 0.0


# --- whose frozen past is whole -------------------------------------------------------------------------------------


def lately(past: str, later: str, policy: Policy = POLICY) -> tuple[Judged, float]:
    """The newest event of a user who acted on these items before the training ended, and on those after it.

    A digit is a like of that item, and behind an exclamation mark a hide. Also where the frozen vector of the whole
    past, as far as there is one, would have put it.
    """
    end = NOW - 1_000_000
    made = msgspec.structs.replace(manifest(policy), training_data_end=end)
    view = items(policy)
    step = user_step(policy, "cholesky", fast=False, sample=1.0, made=made, view=view)
    rows: dict[bytes, bytes] = {}
    effects = None
    acts = [(at, end - 60_000) for at in past.split()] + [(at, end + 60_000) for at in later.split()]
    for number, (act, at) in enumerate(acts):
        kind = "hide" if act.startswith("!") else "like"
        body = event(
            item_id=f"i{act.lstrip('!')}", event_type=kind, request_id=f"{number}", timestamp=at + 1_000 * number
        )
        (effects,) = run(step, [record(number, body)], [], rows)
    assert effects is not None
    judged = judging(made, view).judge(effects.sampled[0].trials)
    index = np.array([int(act) for act in past.split()], np.int32)
    if not len(index):
        return judged, float(judged.ranks["popularity"][0])
    space, target = items(policy).space, int(acts[-1][0])
    # Times do not matter to the confidences of this policy, and each item was liked once.
    confidence = confidence_now(
        np.full(len(index), 2, np.float32), np.zeros(len(index), np.int64), np.ones(len(index), bool), policy
    )
    user = solve_cholesky(space, index, confidence, policy.rhs)
    had = [int(act) for act, _ in acts[:-1] if not act.startswith("!")]
    return judged, slow_position(space.vectors @ user, target, had)


@pytest.mark.parametrize(
    ("past", "later", "known"),
    [
        ("1 2 3", "4", True),
        ("1 2 3", "4 5 6 7", True),
        ("1 2 3", "4 5 5 6 !9 7", True),
        ("", "4", False),
        ("", "4 5 5 !9 7", False),
    ],
)
def test_a_frozen_past_that_is_whole_is_compared(past: str, later: str, known: bool) -> None:
    """Later events on other items take nothing from it, and the frozen model ranks by all of it."""
    judged, expected = lately(past, later)
    assert judged.comparable.tolist() == [True]
    assert judged.known.tolist() == [known]
    assert judged.ranks["frozen"].tolist() == [expected]


@pytest.mark.parametrize(("past", "later"), [("1 2 3", "2 4"), ("1 2 3", "3 4"), ("1", "1 4"), ("1 2 3", "5 1 !9 4")])
def test_a_past_that_later_events_touched_is_not_compared(past: str, later: str) -> None:
    """A repeated item bears its newest time: what it was worth in the training data is gone. The user stays known."""
    judged, _ = lately(past, later)
    assert judged.comparable.tolist() == [False]
    assert judged.known.tolist() == [True]


def test_a_past_that_later_events_pushed_out_is_not_compared() -> None:
    """Out of the history; or repeats have pushed the keys out that would tell how many events were before."""
    judged, _ = lately("1 2 3", "4 5", Policy(history_capacity=3, keys_capacity=12))
    assert judged.comparable.tolist() == [False]
    judged, _ = lately("1 2 3", "4 4 4 4 4 5", Policy(history_capacity=12, keys_capacity=4))
    assert judged.comparable.tolist() == [False]


@pytest.mark.parametrize(("later", "keys"), [("4 5 6 7 8 9", 4), ("4 !5 6 7 8 9", 4), ("4 4 4 5", 6), ("4 4 4 4 5", 4)])
def test_more_events_than_keys_are_compared_where_their_number_tells(later: str, keys: int) -> None:
    """Each newer entry was an event, and so was each newer key of who never suppressed anything."""
    judged, expected = lately("1 2 3", later, Policy(history_capacity=12, keys_capacity=keys))
    assert judged.comparable.tolist() == [True]
    assert judged.ranks["frozen"].tolist() == [expected]


def test_without_trained_vectors_two_models_are_compared() -> None:
    """Nobody has them any more: no number in their place."""
    view = items(POLICY)
    judged = Judge(manifest(POLICY), view).judge(trials(np.random.default_rng(0), view, 5, 7))
    assert set(judged.ranks) == {"live", "popularity"}
    assert judged.comparable.all()


# --- the tally ------------------------------------------------------------------------------------------------------


def found(*positions: float, known: bool = True) -> Judged:
    """What a judge says; the other models foretell nothing."""
    ranks = {model: np.full(len(positions), np.inf) for model in MODELS} | {"live": np.array(positions)}
    count = len(positions)
    return Judged(ranks, np.full(count, known), np.ones(count, bool), np.zeros(count), np.ones(count))


def test_hits_by_generation() -> None:
    """Plain counts of the live factors, for whoever compares two generations; eight are kept."""
    tally = Prequential(k=10, memory=1_000)
    tally.add("m1", found(0, 9, 9.5, 10, np.inf))
    tally.add("m2", found(3))
    tally.add("m1", found(4))
    assert tally.report() == {"m2": (1, 1), "m1": (6, 4)}
    for number in range(8):
        tally.add(f"n{number}", found(0))
    assert list(tally.report()) == [f"n{number}" for number in range(8)]


def test_recall_and_ndcg() -> None:
    """Of the first k, by model and by users; what nobody judged is not a number."""
    tally = Prequential(k=10, memory=1_000_000)
    tally.serve("m1")
    gains = tally.add("m1", found(0, 2, np.inf, np.inf))
    assert gains.tolist() == [1.0, 0.5, 0.0, 0.0]
    assert tally.standing("live").recall == pytest.approx(0.5, rel=1e-4)
    assert tally.standing("live").ndcg == pytest.approx(0.375, rel=1e-4)
    assert tally.standing("frozen").recall == 0.0
    assert tally.standing("live", "known").recall == pytest.approx(0.5, rel=1e-4)
    assert np.isnan(tally.standing("live", "new").recall)
    tally.add("m1", found(1, known=False))
    assert tally.standing("live", "new").recall == 1.0


def test_a_canary_and_a_cut_leave_the_averages_alone() -> None:
    """They are of the generation that is served, since it is; the counts for the comparison are of each."""
    tally = Prequential(k=10, memory=1_000)
    tally.serve("m1")
    tally.add("m1", found(0, 0))
    tally.add("canary", found(np.inf, np.inf))
    assert tally.standing("live").recall == 1.0
    tally.serve("canary")
    assert np.isnan(tally.standing("live").recall)
    tally.add("canary", found(np.inf))
    tally.add("m1", found(0))
    assert tally.standing("live").recall == 0.0
    assert tally.report() == {"canary": (3, 0), "m1": (3, 3)}


def test_what_can_not_be_compared_counts_for_no_model() -> None:
    """And still for the canary's comparison, and for the live factors by themselves."""
    tally = Prequential(k=10, memory=1_000_000)
    tally.serve("m1")
    some = found(0, np.inf)
    some.comparable[:] = [True, False]
    assert tally.add("m1", some).tolist() == [1.0, 0.0]
    assert tally.standing("live").recall == 1.0
    assert tally.standing("live", "known").recall == 1.0
    assert tally.standing("live", "all").recall == pytest.approx(0.5, rel=1e-4)
    assert tally.report() == {"m1": (2, 1)}


def test_the_norm_is_the_mean_over_events() -> None:
    """Of each generation's judged vectors, as long as they are."""
    tally = Prequential(k=10, memory=1_000)
    for norms in ([3.0, 5.0], [7.0]):
        some = found(*[0] * len(norms))
        some.norms[:] = norms
        tally.add("m1", some)
    assert tally.norm("m1") == pytest.approx(5.0)
    assert np.isnan(tally.norm("m2"))


def test_averages_fade() -> None:
    """After as many values as it remembers, the old ones weigh a third."""
    fading = Fading(100)
    fading.add(np.ones(10_000))
    for _ in range(100):
        fading.add(np.zeros(1))
    assert fading.mean == pytest.approx(np.exp(-1), abs=0.01)


def test_a_sample_names_its_generation() -> None:
    """Whoever judges it must know whose items the numbers are."""
    (effects,) = run(sampling(model_version="m9"), [record(0, event())], [], {})
    assert isinstance(effects.sampled[0], Sampled)
    assert effects.sampled[0].model_version == "m9"
