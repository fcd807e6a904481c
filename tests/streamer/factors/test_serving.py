"""What is published of a user: long term, session and prior, against the formula by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Policy
from streamer.events.hashes import segment_hash, segment_name
from streamer.factors.serving import Past, Priors, plain, priors_of, serve, session_of

AVERAGE, PHONE, POPULAR = (np.full(3, number, np.float32) for number in (1.0, 5.0, 9.0))
PRIORS = priors_of(AVERAGE, POPULAR, {"phone": PHONE, "desk": AVERAGE * 3})


def fixed(index: Any, _confidence: Any, _start: Any) -> Any:
    """A solve that says which entries it was given."""
    known = (index >= 0).sum(axis=1, keepdims=True)
    return np.repeat(known, 3, axis=1).astype(np.float32), np.ones(len(index), bool)


def served(
    policy: Policy, *, events: int = 7, segment: str = "", index: Any = (0, 1, -1), priors: Priors = PRIORS
) -> Any:
    past = Past(
        np.array([[11, 12, 13]], np.uint64),
        np.array([[1_000, 9_000, 9_500]], np.int64),
        np.ones((1, 3), bool),
        np.array([index], np.int32),
        np.ones((1, 3)),
    )
    vectors = np.array([[2.0, -4.0, 6.0]], np.float32)
    return serve(past, vectors, np.array([events]), np.array([segment_hash(segment)], np.uint64), policy, priors, fixed)


def test_all_off_is_plain() -> None:
    """The options are off by default, each of them makes a difference."""
    assert plain(Policy())
    for on in ({"session_weight": 0.3}, {"blend_events": 3}, {"segment_key": "device"}):
        assert not plain(Policy(**on))


def test_long_term_and_session_are_mixed() -> None:
    """0.7 and 0.3; of the session's two entries the model knows one. Both are there to read."""
    found = served(Policy(session_weight=0.3, session_gap_ms=500))
    assert found.has_session.all()
    np.testing.assert_allclose(found.session, [[1, 1, 1]])
    np.testing.assert_allclose(found.vectors, [[0.7 * 2 + 0.3, -0.7 * 4 + 0.3, 0.7 * 6 + 0.3]], rtol=1e-6)
    assert found.basis == ["history"]


def test_a_session_of_unknown_items_is_none() -> None:
    """The long-term vector stands alone, to the bit."""
    found = served(Policy(session_weight=0.3, session_gap_ms=499))
    assert not found.has_session.any()
    assert found.vectors.tolist() == [[2.0, -4.0, 6.0]]


@pytest.mark.parametrize(
    ("events", "segment", "index", "share", "prior", "basis"),
    [
        (4, "", (0, 1, -1), 1.0, AVERAGE, "history"),
        (9, "phone", (0, 1, -1), 1.0, PHONE, "history"),
        (3, "", (0, 1, -1), 0.75, AVERAGE, "blend"),
        (1, "phone", (0, 1, -1), 0.25, PHONE, "blend"),
        (1, "never seen", (0, 1, -1), 0.25, AVERAGE, "blend"),
        (9, "", (-1, -1, -1), 0.0, AVERAGE, "average"),
        (9, "phone", (-1, -1, -1), 0.0, PHONE, "segment"),
        (0, "phone", (0, 1, -1), 0.0, PHONE, "segment"),
    ],
)
def test_few_events_lean_on_a_prior(
    events: int, segment: str, index: Any, share: float, prior: Any, basis: str
) -> None:
    """Their share is events / blend_events, and 0 without a known item; the record says what it rests on."""
    found = served(Policy(blend_events=4), events=events, segment=segment, index=index)
    np.testing.assert_allclose(found.vectors, share * np.array([[2.0, -4.0, 6.0]]) + (1 - share) * prior, rtol=1e-6)
    assert found.basis == [basis]
    if basis == "blend":
        name = "segment" if prior is PHONE else "average"
        assert found.made_of(0) == {"basis": "blend", "prior": name, "history_weight": share}
    else:
        assert found.made_of(0) == {"basis": basis}


def test_the_record_says_what_the_vector_is_made_of() -> None:
    """Long term, session and prior with their shares of it give what is published."""
    policy = Policy(session_weight=0.3, session_gap_ms=500, blend_events=4)
    found = served(policy, events=3, segment="phone")
    told = found.made_of(0)
    w, s = told.pop("history_weight"), told.pop("session_weight")
    assert told == {"basis": "blend", "prior": "segment"}
    again = w * (1 - s) * np.array([2.0, -4.0, 6.0]) + w * s * found.session[0] + (1 - w) * PHONE
    np.testing.assert_allclose(found.vectors[0], again, rtol=1e-6)
    plainly = served(policy, events=9, index=(-1, -1, -1))
    assert plainly.made_of(0) == {"basis": "average"}


def test_popularity_is_the_last_resort() -> None:
    """It stands in where nobody makes an average; a segment still comes first."""
    priors = priors_of(AVERAGE * 0, POPULAR, {"phone": PHONE})
    for segment, basis, prior in (("", "popularity", POPULAR), ("phone", "segment", PHONE)):
        found = served(Policy(blend_events=2), events=0, segment=segment, priors=priors)
        assert found.basis == [basis]
        assert found.vectors.tolist() == [prior.tolist()]
    assert priors_of(AVERAGE, POPULAR, {}).basis == ("average",)
    assert priors_of(AVERAGE * 0, None, {}).basis == ("average",)


@given(
    entries=st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 2**64 - 1)), max_size=12, unique_by=lambda one: one[1]
    ),
    gap=st.integers(0, 8),
    most=st.integers(1, 12),
    room=st.integers(0, 3),
    seed=st.randoms(use_true_random=False),
)
def test_a_session_is_the_newest_run(entries: Any, gap: int, most: int, room: int, seed: Any) -> None:
    """By its definition, entry by entry; whatever the order of the slots."""
    expected = set()
    before = None
    for at, item in sorted(entries, reverse=True)[:most]:
        if before is not None and before - at > gap:
            break
        expected.add(item)
        before = at
    seed.shuffle(entries)
    width = max(len(entries) + room, 1)
    item, time = np.zeros((1, width), np.uint64), np.zeros((1, width), np.int64)
    item[0, : len(entries)] = [one[1] for one in entries]
    time[0, : len(entries)] = [one[0] for one in entries]
    used = np.arange(width)[None, :] < len(entries)
    inside = session_of(item, time, used, gap, most)
    assert set(item[inside].tolist()) == expected
    assert not inside[~used].any()


@pytest.mark.parametrize(
    ("context", "name"),
    [
        (None, ""),
        ({}, ""),
        ({"device": None}, ""),
        ({"device": "phone"}, "phone"),
        ({"device": True}, "true"),
        ({"device": 1.5}, "1.5"),
        ({"locale": "phone"}, ""),
    ],
)
def test_what_an_event_calls_its_segment(context: Any, name: str) -> None:
    """Text as it is, the rest as in JSON; nothing is no segment."""
    assert segment_name(context, "device") == name
    assert (segment_hash(name) == 0) == (name == "")
