"""Refresh the users of a batch with numpy: decode rows, fold, solve, guard, encode rows. Takes every user.

`streamer.steps.compiled` does the same for plain users; what it leaves alone comes here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from schemas.layouts import RowShape, UserRows, decode_user_rows, encode_user_rows
from schemas.outcomes import Outcome, Reason
from schemas.records import Policy
from streamer.factors.explicit import solve_users, weights_now
from streamer.factors.guard import guard
from streamer.factors.serving import Past, Priors, Served, serve
from streamer.factors.solve import solve_batch, solve_cholesky
from streamer.factors.weigh import confidence_array, confidence_now, inside_window
from streamer.steps.fold import Columns, Folded, Index, fold
from streamer.steps.items import Items

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]


@dataclass(slots=True)
class Refreshed:
    """What became of users and events.

    users: (T,) the users with a new revision, ascending; of each of them vectors (T, k), norms (of what is published),
    version, events, event_time, source_next, newest (position of the record of the newest effect), average (is the
    vector the average user's) and row (the new bytes). served: what is published, None for the vectors as they are.
    suppressed: user -> ids of suppressed items, of users who have any entry.
    applied: (A,) the applied events, ascending; of each the confidence of its item and owner, a position in ``users``.
    dead_letters: (reason, record position) in log order. facts: see `Effects.facts`.
    """

    users: Index
    vectors: Float32Array
    norms: npt.NDArray[np.floating]
    version: list[int]
    events: list[int]
    event_time: list[int]
    source_next: list[int]
    average: list[bool]
    row: list[bytes]
    newest: list[int] = field(default_factory=list)
    applied: Index = field(default_factory=lambda: np.zeros(0, np.intp))
    confidence: FloatArray = field(default_factory=lambda: np.zeros(0))
    owner: Index = field(default_factory=lambda: np.zeros(0, np.intp))
    served: Served | None = None
    suppressed: dict[int, list[str]] = field(default_factory=dict)
    outcomes: Counter[tuple[Outcome, Reason | None]] = field(default_factory=Counter)
    dead_letters: list[tuple[Reason | Outcome, int]] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Generation:
    """What refreshing needs to know of the generation served, and how to solve.

    priors: None where the vectors are published as they are; mean: the ratings' mean of explicit feedback, whose rows
    hold k + 1 numbers, the bias behind the vector.
    """

    policy: Policy
    shape: RowShape
    number: int
    average: Float32Array
    solver: Literal["cg", "cholesky"]
    tolerance: float
    priors: Priors | None = None
    mean: float | None = None


def refresh(
    columns: Columns, rows: Sequence[bytes | None], strangers: Sequence[int], items: Items, generation: Generation
) -> Refreshed:
    """Fold events into the rows of their users, and solve those users anew."""
    users = decode_user_rows(rows, generation.shape)
    folded = fold(columns, users, generation.policy, strangers)
    touched = folded.touched
    facts: dict[str, float] = {}
    confidence, served = np.zeros((0, 1)), None
    if len(touched):
        past = solve_rows(users, touched, items, generation, facts)
        confidence = past.confidence
        if generation.priors is not None:
            served = serve_rows(users, touched, past, items, generation)
    fresh = refreshed(users, touched, served, generation, facts)
    fresh.newest, fresh.applied = folded.newest_position.tolist(), folded.applied
    fresh.confidence, fresh.owner = _weights(columns, users, folded, confidence, generation.policy)
    fresh.outcomes, fresh.dead_letters = folded.outcomes, folded.dead_letters
    return fresh


def refreshed(
    users: UserRows, touched: Index, served: Served | None, generation: Generation, facts: dict[str, float]
) -> Refreshed:
    """The touched users as they stand, without any event."""
    head, vectors = users.head[touched], users.vector[touched]
    return Refreshed(
        users=touched,
        vectors=vectors,
        norms=np.linalg.norm(vectors if served is None else served.vectors, axis=1),
        version=head["version"].tolist(),
        events=head["events"].tolist(),
        event_time=head["event_time"].tolist(),
        source_next=head["source_next"].tolist(),
        average=(vectors == generation.average).all(axis=1).tolist(),
        row=encode_user_rows(users, touched),
        served=served,
        suppressed=_suppressed(users, touched),
        facts=facts,
    )


def solve_rows(users: UserRows, touched: Index, items: Items, generation: Generation, facts: dict[str, float]) -> Past:
    """Re-solve the touched users from their whole history; returns it as it was solved.

    What is outside of the window has the index -1. The confidences of explicit feedback are the ratings.
    """
    policy, head = generation.policy, users.head
    width = max(int(head["entries"][touched].max()), 1)
    used = np.arange(width) < head["entries"][touched][:, None]
    strength, time = users.strength[touched, :width], users.time[touched, :width]
    inside = inside_window(time, head["event_time"][touched, None], policy)
    index = np.where(inside, items.space.lookup(users.item[touched, :width]), np.int32(-1))
    same = head["generation"][touched] == generation.number
    if generation.mean is not None:
        confidence = strength.astype(np.float64)
        weight = weights_now(time, used, policy)
        vectors, empty = solve_users(items.space.vectors, index, confidence, weight, generation.mean, policy)
    else:
        confidence = confidence_now(strength, time, used, policy)
        start = np.where(same[:, None], users.vector[touched], np.float32(0))
        vectors, empty = _vectors(index, confidence, start, items, generation, facts)
    checked = guard(vectors, policy.norm_cap)
    # A vector that is not finite never leaves: the last good one stays, or the average user stands in.
    held = (same & (head["version"][touched] > 0))[:, None]
    fallback = np.where(held, users.vector[touched], generation.average)
    good = checked.finite[:, None]
    users.vector[touched] = np.where(empty[:, None], generation.average, np.where(good, checked.vectors, fallback))
    head["generation"][touched] = generation.number
    head["version"][touched] += 1
    users.epochs[touched] = items.epochs
    facts["nonfinite"] = float(len(touched) - int(checked.finite.sum()))
    facts["cold_start"] = float(empty.sum())
    facts["users"] = float(len(touched))
    facts["matrix_entries"] = float((index >= 0).sum())
    return Past(users.item[touched, :width], users.time[touched, :width], used, index, confidence)


def serve_rows(users: UserRows, touched: Index, past: Past, items: Items, generation: Generation) -> Served:
    """What is published of the touched users."""
    assert generation.priors is not None

    def solve(
        index: npt.NDArray[np.int32], confidence: FloatArray, start: Float32Array
    ) -> tuple[Float32Array, npt.NDArray[np.bool_]]:
        vectors, _ = _vectors(index, confidence, start, items, generation, {})
        checked = guard(vectors, generation.policy.norm_cap)
        return checked.vectors, checked.finite

    events = users.head["events"][touched].astype(np.int64)
    segments = users.segments(touched.tolist())
    return serve(past, users.vector[touched], events, segments, generation.policy, generation.priors, solve)


def _vectors(
    index: npt.NDArray[np.int32],
    confidence: FloatArray,
    start: Float32Array,
    items: Items,
    generation: Generation,
    facts: dict[str, float],
) -> tuple[Float32Array, npt.NDArray[np.bool_]]:
    rhs = generation.policy.rhs
    if generation.solver == "cg":
        solution = solve_batch(items.space, index, confidence, rhs, start, generation.tolerance)
        facts["solve_residual"] = float(solution.residual.max(initial=0.0))
        facts["solve_iterations"] = float(solution.iterations)
        facts["solve_fallbacks"] = float(solution.fallbacks)
        return solution.vectors, solution.empty
    vectors = [exact(items, row, c, rhs) for row, c in zip(index, confidence, strict=True)]
    return np.stack(vectors), np.all(index < 0, axis=1)


def exact(items: Items, index: npt.NDArray[np.int32], confidence: FloatArray, rhs: str) -> Float32Array:
    """One user by Cholesky; not a number where the system has one that is none."""
    try:
        return solve_cholesky(items.space, index, confidence, rhs)
    except (ValueError, np.linalg.LinAlgError):
        # A system with a bad number has no solution: the guard sees it and keeps the last good vector.
        return np.full(items.space.dimension, np.nan, np.float32)


def _weights(
    columns: Columns, users: UserRows, folded: Folded, confidence: FloatArray, policy: Policy
) -> tuple[FloatArray, Index]:
    """Of each applied event its item's confidence, or rating, and its user's position among the touched."""
    applied = folded.applied
    if not len(applied):
        return np.zeros(0), np.zeros(0, np.intp)
    user = columns.user[applied]
    row = np.full(len(users), -1, np.intp)
    row[folded.touched] = np.arange(len(folded.touched))
    match = users.item[user, : confidence.shape[1]] == columns.item[applied][:, None]
    slot = match.argmax(axis=1)
    # An entry that the same batch evicted again has no slot left: its event weighs as a lone one.
    weight = columns.weight[applied]
    alone = confidence_array(weight, policy) if policy.feedback == "implicit" else weight
    return np.where(match.any(axis=1), confidence[row[user], slot], alone), row[user]


def _suppressed(users: UserRows, touched: Index) -> dict[int, list[str]]:
    """The ids that each user suppresses now, of users who ever did."""
    if not users.extras:
        return {}
    return {
        user: [entry.item_id for entry in users.extras[user].suppressed if entry.until >= entry.positive]
        for user in touched.tolist()
        if user in users.extras
    }
