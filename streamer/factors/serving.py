"""What is published of a user: the long-term solve, a share of the session's, and for users of few events a prior.

    x   the exact solve over the whole kept history: the row's vector, and what items learn from
    s   the same solve over the session alone, with the same confidences
    a   the prior: the average user of the user's segment; else of all; else the vector that ranks by popularity

    published = w m + (1 - w) a,    m = (1 - session_weight) x + session_weight s,    w = min(1, events / blend_events)

The session is the newest entries of the history that follow each other without a gap longer than `session_gap_ms`, at
most `session_entries`; where the model knows none of them, m = x. Without any known item in the history w = 0. Each of
session_weight, blend_events and segment_key is off by default, and without all of them x is published as it is.

Pure, and the same for stream, bootstrap, evaluation and audit. Ties in time go by item hash, so that no order of
arrival matters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.records import Manifest, Policy
from streamer.events.hashes import segment_hash

Basis = Literal["history", "blend", "segment", "average", "popularity"]
FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
HashArray = NDArray[np.uint64]
IndexArray = NDArray[np.int32]
Solve = Callable[[IndexArray, FloatArray, Float32Array], tuple[Float32Array, BoolArray]]
"""(index (B, H), confidence (B, H), start (B, k)) -> vectors (B, k), and which of them are a solution (B,)."""


def plain(policy: Policy) -> bool:
    """Is the long-term vector published as it is?"""
    return not (policy.session_weight or policy.blend_events or policy.segment_key)


@dataclass(frozen=True, slots=True)
class Priors:
    """Where users start.

    vectors (1 + S, k) float32, basis (1 + S,): first of users without a known segment, then of each segment;
    segments: (S,) their hashes, ascending.
    """

    vectors: Float32Array
    basis: tuple[Basis, ...]
    segments: HashArray

    def of(self, segment: HashArray) -> NDArray[np.intp]:
        """The row of each user's prior; segment: (B,) hashes, 0 for none."""
        if not len(self.segments):
            return np.zeros(len(segment), np.intp)
        at = np.minimum(np.searchsorted(self.segments, segment), len(self.segments) - 1)
        return np.where(self.segments[at] == segment, at + 1, 0)


def priors_of(
    average: Float32Array, popularity: Sequence[float] | Float32Array | None, segments: Mapping[str, Float32Array]
) -> Priors:
    """The priors of a generation; an average of zeros is none."""
    first: Float32Array = np.asarray(average, np.float32)
    basis: Basis = "average"
    if popularity is not None and not first.any():
        first, basis = np.asarray(popularity, np.float32), "popularity"
    hashes = {segment_hash(name): vector for name, vector in segments.items()}
    order = sorted(hashes)
    rows = [first, *(np.asarray(hashes[number], np.float32) for number in order)]
    others: list[Basis] = ["segment"] * len(order)
    return Priors(np.stack(rows), (basis, *others), np.array(order, np.uint64))


def priors_in(manifest: Manifest) -> Priors | None:
    """The priors of a manifest; None where the long-term vector is published as it is."""
    if plain(manifest.policy):
        return None
    segments = {name: np.array(vector, np.float32) for name, vector in manifest.segments.items()}
    return priors_of(np.array(manifest.average_user, np.float32), manifest.popularity_user, segments)


@dataclass(frozen=True, slots=True)
class Past:
    """The histories of B users, all (B, H).

    Item hashes, times (ms), which slots are used; and as a solve takes it the item's index (-1 for unknown) and the
    confidence.
    """

    item: HashArray
    time: IntArray
    used: BoolArray
    index: IndexArray
    confidence: FloatArray


@dataclass(frozen=True, slots=True)
class Served:
    """What is published of B users, and of what it is made.

    vectors (B, k); basis of each; session (B, k), and which users have one (B,); session_weight: its share in m;
    weight (B,): w; prior: where a comes from.
    """

    vectors: Float32Array
    basis: list[Basis]
    session: Float32Array
    has_session: BoolArray
    session_weight: float
    weight: FloatArray
    prior: list[Basis]

    def made_of(self, at: int) -> dict[str, Any]:
        """The record's fields of one user beside the session: basis, and the shares where something is mixed."""
        fields: dict[str, Any] = {"basis": self.basis[at]}
        if self.basis[at] == "blend":
            fields |= {"prior": self.prior[at], "history_weight": float(self.weight[at])}
        if self.has_session[at]:
            fields["session_weight"] = self.session_weight
        return fields


def serve(
    past: Past,
    vectors: Float32Array,
    events: IntArray,
    segment: HashArray,
    policy: Policy,
    priors: Priors,
    solve: Solve,
) -> Served:
    """What to publish of users with these long-term vectors (B, k), events applied (B,) and segments (B,)."""
    known = (past.index >= 0).any(axis=1)
    mixed = vectors.astype(np.float64)
    session, has = np.zeros_like(vectors), np.zeros(len(vectors), bool)
    if policy.session_weight:
        inside = session_of(past.item, past.time, past.used, policy.session_gap_ms, policy.session_entries)
        index = np.where(inside, past.index, np.int32(-1))
        session, solved = solve(index, past.confidence, vectors)
        has = solved & (index >= 0).any(axis=1)
        share = np.where(has, policy.session_weight, 0.0)[:, None]
        mixed = (1.0 - share) * mixed + share * session
    weight = np.minimum(1.0, events / policy.blend_events) if policy.blend_events else np.ones(len(vectors))
    weight = np.where(known, weight, 0.0)
    row = priors.of(segment)
    mixed = np.where(
        weight[:, None] < 1.0, weight[:, None] * mixed + (1.0 - weight[:, None]) * priors.vectors[row], mixed
    )
    prior = [priors.basis[at] for at in row.tolist()]
    basis: list[Basis] = [
        "history" if share == 1.0 else "blend" if share else name
        for share, name in zip(weight.tolist(), prior, strict=True)
    ]
    return Served(mixed.astype(np.float32), basis, session, has, policy.session_weight, weight, prior)


def session_of(item: HashArray, time: IntArray, used: BoolArray, gap_ms: int, most: int) -> BoolArray:
    """Which entries are of their user's session. All (B, H)."""
    newest_first = np.lexsort((item, np.where(used, time, -1)), axis=-1)[:, ::-1]
    times = np.take_along_axis(time, newest_first, axis=1)
    within = np.ones(time.shape, bool)
    within[:, 1:] = np.logical_and.accumulate(times[:, :-1] - times[:, 1:] <= gap_ms, axis=1)
    within &= np.arange(time.shape[1]) < np.minimum(used.sum(axis=1), most)[:, None]
    out = np.zeros(time.shape, bool)
    np.put_along_axis(out, newest_first, within, axis=1)
    return out
