"""`streamer audit`: are the streamed vectors what a fresh exact solve gives?

For each user row of the active generation: strengths and confidences by the worker's own functions, a float64 Cholesky
solve against the item vectors as they stand, compared with the published vector,

    |x_published - x_fresh| / |x_fresh|

A user's items count as standing still when the row was solved with all that the item topic holds today (the row's
items_epoch is past the last change in each of its partitions). For these the two must agree. The items of the others
have moved after their last event: what they were solved with is not kept, so nobody can judge them afterwards, and
their difference, which says how far the items have moved, is reported apart. A vector that is not finite is wrong
wherever its items are.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import typer

from schemas.layouts import UserRows
from schemas.records import Manifest
from streamer.commands.shared import ConfigOption, JsonOption, Progress, dump, say, settings_of
from streamer.errors import CheckFailed
from streamer.settings import Settings

TOLERANCE = 1e-5

Status = Literal["exact", "not_judged", "wrong", "nothing_there"]
"""What an audit comes to: everybody who could be judged is exact; nobody could be judged, and nothing contradicts."""


@dataclass(slots=True)
class Audit:
    """What was compared; errors are relative, users are counted. worst, farthest: whose is largest."""

    standing: list[float] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    worst: str = ""
    worst_error: float = -1.0
    farthest: str = ""
    farthest_by: float = -1.0
    newer: int = 0
    unpublished: int = 0
    other_generation: int = 0

    def compare(self, user: str, error: float, *, standing: bool) -> None:
        """Note one user; standing: the user's items are where they were."""
        if standing or not math.isfinite(error):
            if error >= self.worst_error:
                self.worst, self.worst_error = user, error
            self.standing.append(error)
        else:
            if error >= self.farthest_by:
                self.farthest, self.farthest_by = user, error
            self.moved.append(error)

    @property
    def status(self) -> Status:
        """Only an error, or that there was nothing at all to look at, is a failure."""
        if self.unpublished or max(self.standing, default=0.0) > TOLERANCE:
            return "wrong"
        if self.standing:
            return "exact"
        return "not_judged" if self.moved or self.newer else "nothing_there"

    def report(self) -> dict[str, Any]:
        """The figures, for people and programs."""
        return {
            "status": self.status,
            "users": len(self.standing) + len(self.moved),
            "largest_error": max(self.standing, default=None),
            "worst_user": self.worst or None,
            "items_standing_still": len(self.standing),
            "items_moved_since": len(self.moved),
            "largest_difference_where_moved": max(self.moved, default=None),
            "farthest_user": self.farthest or None,
            "changed_meanwhile": self.newer,
            "unpublished": self.unpublished,
            "other_generation": self.other_generation,
            "tolerance": TOLERANCE,
        }


def audit(
    config: ConfigOption = None,
    *,
    sample: Annotated[int, typer.Option(min=0, help="Audit so many users, chosen evenly; 0 is all.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare published user vectors with a fresh exact solve.

    Exit code 1 above 1e-5 where items stand still, and where no user has a vector. Users whose items moved after their
    last event can't be judged; that is no error.
    """
    settings = settings_of(config)
    found = _audit(settings, sample)
    report = found.report()
    if as_json:
        dump(report)
    else:
        _say(found, report)
    if found.unpublished:
        raise CheckFailed(f"{found.unpublished:,} users have a row but no published vector.")
    if found.status == "nothing_there":
        raise CheckFailed("nothing could be judged: no user has a row of the active generation yet.")
    if found.status == "wrong":
        raise CheckFailed(
            f"the largest relative error is {report['largest_error']:.2e}, at user {found.worst}; "
            f"at most {TOLERANCE:.0e} is allowed."
        )


def _audit(settings: Settings, sample: int) -> Audit:
    from streamer.commands.cluster import consuming
    from streamer.commands.generation import chunks, generations, load_items, read_user_rows, rows_of
    from streamer.reader import FactorReader
    from streamer.settings import kafka_python_options

    with consuming(settings) as consumer:
        known = generations(consumer, settings)
        manifest, _ = known.served()
        # Rows first: what is committed while the vectors are read makes them newer, never older, than the rows.
        with Progress("rows read") as progress:
            rows = read_user_rows(consumer, settings, progress.advance)
        with Progress("items read") as progress:
            side = load_items(consumer, settings, known, progress.advance)
    options = kafka_python_options(settings)
    servers = settings.kafka.bootstrap_servers
    with FactorReader(servers, settings.kafka.prefix, "user", options=options) as reader:
        published = reader.snapshot()
    if sample and sample < len(rows):
        keys = sorted(rows)
        rows = {keys[at]: rows[keys[at]] for at in np.linspace(0, len(keys) - 1, sample).astype(int)}
    found = Audit()
    with Progress("users solved", len(rows)) as progress:
        for chunk in chunks(rows):
            batch = rows_of(manifest, side, [row for _, row in chunk])
            users = [key.decode("utf-8", "replace") for key, _ in chunk]
            _compare(users, batch, manifest, known.number, side, published, found)
            progress.advance(len(chunk))
    return found


def _compare(
    users: list[str],
    rows: UserRows,
    manifest: Manifest,
    number: int,
    side: Any,
    published: Mapping[str, Any],
    found: Audit,
) -> None:
    from streamer.steps.parity import relative_error

    generation = np.uint64(number)
    standing = (rows.epochs > side.moved).all(axis=1)
    for at, user in enumerate(users):
        if rows.head["generation"][at] != generation:
            found.other_generation += 1
            continue
        factor = published.get(user)
        if factor is None:
            found.unpublished += 1
            continue
        if factor.version != int(rows.head["version"][at]):
            found.newer += 1
            continue
        error = relative_error(factor.row, fresh_vector(rows, at, manifest, side.items))
        found.compare(user, error, standing=bool(standing[at]))


def fresh_vector(rows: UserRows, at: int, manifest: Manifest, items: Any) -> npt.NDArray[np.float32]:
    """What must be published of one row, solved anew: exactly, with norm cap, average user, session and blend."""
    from streamer.commands.generation import history_of
    from streamer.factors.explicit import solve_ratings
    from streamer.factors.guard import guard
    from streamer.factors.serving import Past, priors_in, serve
    from streamer.factors.solve import solve_cholesky

    def solve(index: Any, confidence: Any, _start: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        solved = solve_cholesky(items.space, index[0], confidence[0], manifest.policy.rhs)
        checked = guard(solved[None, :], manifest.policy.norm_cap)
        return checked.vectors, checked.finite

    history = history_of(rows, at, manifest, items)
    index, confidence = history.index[None, :], history.confidence[None, :]
    vector: npt.NDArray[np.float32] = np.array([manifest.average_row], np.float32)
    known = history.index >= 0
    if known.any() and manifest.global_mean is not None:
        rated, ratings = items.space.vectors[history.index[known]], history.strength[known]
        solved = solve_ratings(rated, ratings, history.confidence[known], manifest.global_mean, manifest.policy)
        vector = guard(solved[None, :], manifest.policy.norm_cap).vectors
    elif known.any():
        vector, _ = solve(index, confidence, None)
    priors = priors_in(manifest)
    if priors is None:
        return vector.reshape(-1)
    past = Past(history.item[None, :], history.time[None, :], np.ones(index.shape, bool), index, confidence)
    events = rows.head["events"][at : at + 1].astype(np.int64)
    return serve(past, vector, events, rows.segments([at]), manifest.policy, priors, solve).vectors.reshape(-1)


def _say(found: Audit, report: dict[str, Any]) -> None:
    say(f"{report['users']:,} users compared")
    if found.standing:
        largest = report["largest_error"]
        say(f"  judged, items standing still since: {len(found.standing):,}, largest relative error {largest:.2e}")
    if found.moved:
        largest = report["largest_difference_where_moved"]
        say(
            f"  not judged, items moved since the last event: {len(found.moved):,}; a solve with today's items differs "
            f"most at user {found.farthest}, by {largest:.0%} of its length: so far the items moved"
        )
    for count, text in (
        (found.newer, "changed while they were read, not compared"),
        (found.other_generation, "rows of another generation, solved anew at their next event"),
    ):
        if count:
            say(f"  {text}: {count:,}")
    if found.status in ("exact", "not_judged") and (found.moved or found.newer):
        say(
            f"no error found; {len(found.moved) + found.newer:,} could not be judged because their items moved since, "
            "or they changed meanwhile: the workers judge such users at their next event, a few a second "
            "(factors_parity_error)"
        )
