"""`streamer explain user`: which events made a user's vector, and which of them each recommendation owes its score.

The vector is x = A^-1 sum q_i v_i (streamer/factors/solve.py), so the score of an item j splits without a rest:

    v_j . x = sum over i of  q_i * v_j' A^-1 v_i

one part for each entry i of the history. Items are taken as they stand now; where some have moved since the user's
last event, the parts add up to the score of a fresh solve, and the difference is said.

Of explicit feedback (streamer/factors/explicit.py) the row is [x, b_u] = A^-1 sum w_i (r_i - μ - b_i) [y_i, 1], the
parts are those of [y_j, 1].[x, b_u], and with μ + b_j they add up to the rating that is foretold.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from schemas.layouts import UserRows
from schemas.records import Manifest, Policy
from streamer.commands.shared import ConfigOption, JsonOption, dump, say, settings_of, table
from streamer.errors import CheckFailed
from streamer.factors.serving import plain

app = typer.Typer(help="Explain a vector.", no_args_is_help=True)

_DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Explanation:
    """parts: (n, t), what entry i adds to the score of top item j; top: indexes of the top items, scores: (t,)."""

    parts: npt.NDArray[np.float64]
    top: npt.NDArray[np.intp]
    scores: npt.NDArray[np.float64]
    vector: npt.NDArray[np.float64]


@app.command()
def user(
    user_id: Annotated[str, typer.Argument(metavar="ID")],
    config: ConfigOption = None,
    *,
    top: Annotated[int, typer.Option(min=1, max=100, help="How many recommendations to look at.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Show a user's history with strength, age and confidence, and what each entry adds to the top items."""
    from streamer.commands.cluster import consuming, newest_of
    from streamer.commands.generation import generations, load_items, rows_of, titles_of

    settings = settings_of(config)
    with consuming(settings) as consumer:
        known = generations(consumer, settings)
        manifest, _ = known.served()
        record = newest_of(consumer, settings.topic("user-state"), user_id)
        if record is None:
            raise CheckFailed(f"user {user_id} has no row: no event of theirs had an effect, or they were erased.")
        side = load_items(consumer, settings, known)
        titles = titles_of(consumer, settings)
    rows = rows_of(manifest, side, [record.value])
    facts = _facts(user_id, rows, manifest, known.number, side, titles, top)
    dump(facts) if as_json else _show(facts, manifest.policy)


def explain_scores(
    space: Any, index: npt.NDArray[np.int32], confidence: npt.NDArray[np.float64], policy: Policy, top: int
) -> Explanation:
    """Split the scores of the best items outside of the history. index, confidence: (n,)."""
    vectors = space.vectors.astype(np.float64)
    known = index >= 0
    rows = np.zeros((len(index), space.dimension))
    rows[known] = vectors[index[known]]
    weight = np.where(known, confidence - 1.0, 0.0)
    ridge = space.rule.of(int(known.sum()))
    system = space.gramian + ridge * np.eye(space.dimension) + (rows * weight[:, None]).T @ rows
    q = np.where(known, confidence if policy.rhs == "c" else confidence - 1.0, 0.0)
    # Column i is what entry i puts into the vector.
    shares = np.linalg.solve(system, (rows * q[:, None]).T)
    return _explained(vectors, shares, 0.0, index[known], top)


def explain_ratings(
    space: Any, index: npt.NDArray[np.int32], rating: npt.NDArray[np.float64], weight: npt.NDArray[np.float64],
    mean: float, policy: Policy, top: int,
) -> Explanation:  # fmt: skip
    """Split what is foretold of the best items outside of the history; ``scores`` are the ratings foretold."""
    bias, known = space.vectors[:, -1].astype(np.float64), index >= 0
    vectors = space.vectors.astype(np.float64)
    vectors[:, -1] = 1.0
    rows = np.where(known[:, None], vectors[index], 0.0)
    weighted = rows * weight[:, None]
    ridge = np.full(space.dimension, policy.ridge)
    ridge[-1] = policy.ridge_bias
    rest = np.where(known, rating - mean - bias[index], 0.0)
    shares = np.linalg.solve(weighted.T @ rows + np.diag(ridge), (weighted * rest[:, None]).T)
    return _explained(vectors, shares, mean + bias, index[known], top)


def _explained(
    vectors: npt.NDArray[np.float64],
    shares: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64] | float,
    had: npt.NDArray[np.int32],
    top: int,
) -> Explanation:
    """The best items that the user has not had, by offset + vectors (m, k) @ the sum of the shares (k, n)."""
    vector = shares.sum(axis=1)
    scores = offset + vectors @ vector
    candidates = scores.copy()
    candidates[had] = -np.inf
    best = np.argsort(-candidates, kind="stable")[:top]
    best = best[np.isfinite(candidates[best])]
    return Explanation((vectors[best] @ shares).T, best, scores[best], vector)


def _facts(
    user_id: str, rows: UserRows, manifest: Manifest, number: int, side: Any, titles: dict[str, str], top: int
) -> dict[str, Any]:
    from streamer.commands.generation import history_of

    history = history_of(rows, 0, manifest, side.items)
    space, head = side.items.space, rows.head[0]
    if manifest.global_mean is None:
        made = explain_scores(space, history.index, history.confidence, manifest.policy, top)
    else:
        mean, ratings, weight = manifest.global_mean, history.strength, history.confidence
        made = explain_ratings(space, history.index, ratings, weight, mean, manifest.policy, top)
    newest = int(history.time.max()) if len(history.time) else 0
    extras = rows.extras.get(0)
    entries = [
        {
            "item_id": space.ids[index] if index >= 0 else None,
            "inside_window": bool(inside),
            "item_hash": f"{item:016x}",
            "title": titles.get(space.ids[index], "") if index >= 0 else "",
            "newest_event": int(at),
            "age_days": round((newest - int(at)) / _DAY_MS, 2),
            "strength": round(float(strength), 4),
            "confidence": round(float(confidence), 4),
            "adds": round(float(parts.mean()), 6) if len(parts) else 0.0,
            "adds_to": [round(float(part), 6) for part in parts],
        }
        for index, item, at, strength, confidence, inside, parts in zip(
            history.index.tolist(),
            history.item.tolist(),
            history.time,
            history.strength,
            history.confidence,
            history.inside,
            made.parts,
            strict=True,
        )
    ]
    entries.sort(key=lambda entry: -abs(float(str(entry["adds"]))))
    stored = rows.vector[0].astype(np.float64)
    same = int(head["generation"]) == number
    length = float(np.linalg.norm(made.vector))
    apart = float(np.linalg.norm(stored - made.vector)) / length if same and length else None
    return {
        "user_id": user_id,
        "model_version": manifest.model_version,
        "row_is_of_this_model": same,
        "version": int(head["version"]),
        "events": int(head["events"]),
        "newest_event": int(head["event_time"]),
        "suppressed": [one.item_id for one in extras.suppressed] if extras else [],
        "history": entries,
        "top_items": [
            {"item_id": space.ids[at], "title": titles.get(space.ids[at], ""), "score": round(float(score), 6)}
            for at, score in zip(made.top.tolist(), made.scores, strict=True)
        ],
        "stored_vector_differs_by": apart,
    }


def _show(facts: dict[str, Any], policy: Policy) -> None:
    say(
        f"User {facts['user_id']}: version {facts['version']}, {facts['events']} events, model {facts['model_version']}"
    )
    say(_formula(policy))
    table(
        ("score", "item", "title"),
        ((one["score"], one["item_id"], one["title"]) for one in facts["top_items"]),
        title="Top items",
    )
    table(
        ("adds to them", "item", "title", "strength", "confidence", "age, days"),
        (
            (
                one["adds"],
                # The row keeps no names: of an item that does not count only this is known.
                one["item_id"] or f"hash {one['item_hash']}, {_why_not(one)}",
                one["title"],
                one["strength"],
                one["confidence"],
                one["age_days"],
            )
            for one in facts["history"]
        ),
        title="History, by what it adds to the score of a top item on average",
    )
    if not plain(policy):
        say(
            "All of this is of the long-term vector; a session's share and a prior go into the published one beside it."
        )
    if facts["suppressed"]:
        say(f"Suppressed: {', '.join(facts['suppressed'])}")
    if not facts["row_is_of_this_model"]:
        say("The row was solved with another generation; it is solved anew at the user's next event.")
    elif facts["stored_vector_differs_by"] and facts["stored_vector_differs_by"] > 1e-5:
        part = facts["stored_vector_differs_by"]
        say(f"Items have moved since the user's last event: a fresh solve differs from the vector by {part:.1e}.")


def _why_not(entry: dict[str, Any]) -> str:
    return "not in the model" if entry["inside_window"] else "outside of the window"


def _formula(policy: Policy) -> str:
    if policy.feedback == "explicit":
        days = policy.rating_half_life_ms / _DAY_MS
        fades = f"2^(-age / {days:g} days)" if days else "1"
        return f"strength r = the newest rating; confidence = its weight, {fades}; score = the rating foretold"
    confidence = {
        "log": f"1 + {policy.alpha:g} * log1p(r)",
        "linear": f"1 + {policy.alpha:g} * r",
        "raw": "max(1, r)",
    }[policy.confidence]
    days = policy.half_life_ms / _DAY_MS
    decay = f" * 2^(-age / {days:g} days)" if policy.half_life_ms else ""
    return f"strength r = sum of weight * value{decay}; confidence c = {confidence}"
