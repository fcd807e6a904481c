"""The user step: events of one partition in, refreshed user rows and vectors out.

    records -> read (decode, validate, filter) -> rows -> fold (dedupe, weigh) -> solve -> guard -> publish

Pure: the same records, rows and item view give the same effects. Each user of a batch is solved and published once,
however many events the batch holds for that user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
from xxhash import xxh3_64_intdigest

from schemas.layouts import RowShape, UserRows, decode_user_rows, encode_signals, encode_user_rows
from schemas.outcomes import DEAD_LETTER_REASONS, Outcome, Reason
from schemas.records import Interaction, Manifest
from streamer.events.hashes import fingerprint, generation_id, partition, request_hash
from streamer.events.read import Reader
from streamer.events.verdicts import Filtered, Rejected
from streamer.factors.guard import guard
from streamer.factors.solve import solve_batch, solve_cholesky
from streamer.factors.weigh import confidence_array, strength_at
from streamer.steps.effects import Effects
from streamer.steps.fold import KIND_OF, Events, Folded, fold
from streamer.steps.items import Items
from streamer.steps.records import Publisher, dead_letter

_AFTER_PARTITION = frozenset({Reason.FUTURE}) | (frozenset(Reason) - DEAD_LETTER_REASONS)
"""Reasons that the contract puts behind wrong_partition, which takes the row to decide."""


@dataclass(frozen=True, slots=True)
class UserTopics:
    """Full topic names, and the partitions of the user side."""

    interactions: str
    user_factors: str
    item_signals: str
    dead_letters: str
    partitions: int


@dataclass(slots=True)
class UserBatch:
    """What reading gives: the good events as columns, the users they touch, and what ended before any row.

    held: (record position, user, verdict) of records whose verdict stands only if their user has a row.
    """

    partition: int
    records: Sequence[Any]
    keys: list[bytes] = field(default_factory=list)
    events: Events = field(default_factory=Events)
    held: list[tuple[int, int, Rejected | Filtered]] = field(default_factory=list)
    effects: Effects = field(default_factory=Effects)


class UserStep:
    """See the module docstring; ``items`` is read, never changed."""

    def __init__(
        self,
        manifest: Manifest,
        items: Items,
        topics: UserTopics,
        reader: Reader,
        *,
        solver: Literal["cg", "cholesky"],
        tolerance: float,
        encoding: Literal["json", "f32le"],
        source: str,
    ) -> None:
        policy = manifest.policy
        self._policy, self._items, self._topics, self._reader = policy, items, topics, reader
        self._solver, self._tolerance = solver, tolerance
        self._generation = generation_id(manifest.model_version)
        self._average = np.array(manifest.average_user, np.float32)
        self._shape = RowShape(manifest.dimension, policy.history_capacity, policy.keys_capacity, len(items.epochs))
        self._publisher = Publisher(
            "user", source, manifest.model_version, manifest.dimension, manifest.training_data_end, encoding
        )

    # --- read: what needs no row --------------------------------------------------------------------------------

    def read(self, records: Sequence[Any], partition: int) -> UserBatch:
        """Decode and judge each record; good events become columns, the rest is done with here."""
        batch = UserBatch(partition, records)
        read, columns, item_of, weights = (
            self._reader.read,
            batch.events,
            self._items.of,
            self._policy.weights,
        )
        users: dict[bytes, int] = {}
        append, kind_of = columns.append, KIND_OF
        for position, record in enumerate(records):
            verdict = read(record)
            if isinstance(verdict, Interaction):
                key = record.key
                user = users.setdefault(key, len(users))
                index, item, target = item_of(verdict.item_id)
                kind = verdict.event_type
                append(
                    (
                        position,
                        user,
                        index,
                        item,
                        target,
                        weights[kind] * verdict.value if kind in weights else 0.0,
                        verdict.timestamp,
                        record.timestamp,
                        request_hash(verdict.tenant, verdict.user_id, verdict.request_id),
                        fingerprint(verdict),
                        record.offset,
                        kind_of[kind],
                        verdict.item_id,
                    )
                )
            elif verdict.reason in _AFTER_PARTITION and self._strange(record.key, batch.partition):
                batch.held.append((position, users.setdefault(record.key, len(users)), verdict))
            else:
                self._end(batch, record, verdict)
        batch.keys = list(users)
        return batch

    def _strange(self, key: bytes, number: int) -> bool:
        """Does this key belong to another partition?"""
        return partition(key, self._topics.partitions) != number

    def _end(self, batch: UserBatch, record: Any, verdict: Rejected | Filtered) -> None:
        """A record without an effect: count it and, if it is bad, keep it in the dead letters."""
        if isinstance(verdict, Filtered):
            batch.effects.outcomes[Outcome.FILTERED, verdict.reason] += 1
            return
        letter = dead_letter(record, self._topics.interactions, verdict.reason, verdict.errors)
        batch.effects.send((self._topics.dead_letters, batch.partition), letter)
        batch.effects.outcomes[Outcome.DEAD_LETTER, verdict.reason] += 1

    # --- apply: fold, solve, publish ----------------------------------------------------------------------------

    def apply(self, batch: UserBatch, rows: Sequence[bytes | None]) -> Effects:
        """Apply the events to the rows of ``batch.keys``, in log order for each user."""
        effects = batch.effects
        strangers = [
            user for user, row in enumerate(rows) if row is None and self._strange(batch.keys[user], batch.partition)
        ]
        self._settle_held(batch, strangers)
        if not batch.events:
            return effects
        columns = batch.events.columns()
        users = decode_user_rows(rows, self._shape)
        folded = fold(columns, users, self._policy, strangers)
        effects.outcomes.update(folded.outcomes)
        self._dead_letters(batch, folded)
        touched = folded.touched
        if len(touched):
            confidence = self._solve(users, touched, effects)
            self._publish(batch, users, folded, effects)
            self._signal(batch, users, folded, confidence, effects)
            effects.rows = list(
                zip(
                    [batch.keys[user] for user in touched.tolist()],
                    encode_user_rows(users, touched),
                    strict=True,
                )
            )
        return effects

    def _settle_held(self, batch: UserBatch, strangers: list[int]) -> None:
        """The wrong partition comes before what the reader found, but only a user without a row can be on one."""
        for position, user, verdict in batch.held:
            ended = Rejected(Reason.WRONG_PARTITION) if user in strangers else verdict
            self._end(batch, batch.records[position], ended)

    def _dead_letters(self, batch: UserBatch, folded: Folded) -> None:
        target = (self._topics.dead_letters, batch.partition)
        for reason, position in folded.dead_letters:
            batch.effects.send(target, dead_letter(batch.records[position], self._topics.interactions, reason, ()))

    def _solve(self, users: UserRows, touched: npt.NDArray[np.intp], effects: Effects) -> npt.NDArray[np.float64]:
        """Re-solve the touched users from their whole history; returns their confidences (T, H)."""
        width = max(int(users.head["entries"][touched].max()), 1)
        index = self._items.space.lookup(users.item[touched, :width])
        time = users.time[touched, :width]
        now = time.max(axis=1, keepdims=True)
        strength = strength_at(users.strength[touched, :width], time, now, self._policy.half_life_ms)
        confidence = confidence_array(strength, self._policy)
        head = users.head
        same = head["generation"][touched] == self._generation
        start = np.where(same[:, None], users.vector[touched], np.float32(0))
        vectors, empty = self._vectors(index, confidence, start, effects)
        checked = guard(vectors, self._policy.norm_cap)
        # A vector that is not finite never leaves: the last good one stays, or the average user stands in.
        fallback = np.where((same & (head["version"][touched] > 0))[:, None], users.vector[touched], self._average)
        good = checked.finite[:, None]
        users.vector[touched] = np.where(empty[:, None], self._average, np.where(good, checked.vectors, fallback))
        head["generation"][touched] = self._generation
        head["version"][touched] += 1
        users.epochs[touched] = self._items.epochs
        known = index >= 0
        effects.norms = np.linalg.norm(users.vector[touched], axis=1)
        effects.facts["nonfinite"] = float(len(touched) - int(checked.finite.sum()))
        effects.facts["cold_start"] = float(empty.sum())
        effects.facts["users"] = float(len(touched))
        effects.facts["matrix_entries"] = float(known.sum())
        return confidence

    def _vectors(
        self,
        index: npt.NDArray[np.int32],
        confidence: npt.NDArray[np.float64],
        start: npt.NDArray[np.float32],
        effects: Effects,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        if self._solver == "cg":
            solution = solve_batch(self._items.space, index, confidence, self._policy.rhs, start, self._tolerance)
            effects.facts["solve_residual"] = float(solution.residual.max(initial=0.0))
            effects.facts["solve_iterations"] = float(solution.iterations)
            effects.facts["solve_fallbacks"] = float(solution.fallbacks)
            return solution.vectors, solution.empty
        exact = [self._exact(row, c) for row, c in zip(index, confidence, strict=True)]
        return np.stack(exact), np.all(index < 0, axis=1)

    def _exact(self, index: npt.NDArray[np.int32], confidence: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        try:
            return solve_cholesky(self._items.space, index, confidence, self._policy.rhs)
        except (ValueError, np.linalg.LinAlgError):
            # A system with a bad number has no solution: the guard sees it and keeps the last good vector.
            return np.full(self._items.space.dimension, np.nan, np.float32)

    def _publish(self, batch: UserBatch, users: UserRows, folded: Folded, effects: Effects) -> None:
        touched = folded.touched
        head = users.head[touched]
        place = f"{self._topics.interactions}/{batch.partition}/".encode()
        numbers = touched.tolist()
        average = ~np.any(users.vector[touched] != self._average, axis=1)
        plain, cold = b',"suppressed":[],"basis":"history"', b',"suppressed":[],"basis":"average"'
        extras = [cold if is_average else plain for is_average in average.tolist()]
        if users.extras:
            extras = [
                self._suppressed(users, user, text) if user in users.extras else text
                for user, text in zip(numbers, extras, strict=True)
            ]
        offsets = [place + b"%d" % (after - 1) for after in head["source_next"].tolist()]
        effects.sends.setdefault((self._topics.user_factors, batch.partition), []).extend(
            self._publisher.records(
                [batch.keys[user] for user in numbers],
                users.vector[touched],
                head["version"].tolist(),
                head["events"].tolist(),
                head["event_time"].tolist(),
                extras,
                offsets,
                self._items.epochs.tolist(),
                self._traces(batch, folded),
            )
        )

    @staticmethod
    def _suppressed(users: UserRows, user: int, text: bytes) -> bytes:
        ids = [entry.item_id for entry in users.extras[user].suppressed if entry.until >= entry.positive]
        return text.replace(b'"suppressed":[]', b'"suppressed":' + orjson.dumps(ids))

    @staticmethod
    def _traces(batch: UserBatch, folded: Folded) -> dict[int, bytes]:
        """The traceparent of each published user's newest event, where it had one; costs nothing where none has."""
        if not any(record.headers for record in batch.records):
            return {}
        traces = {}
        for position, newest in enumerate(folded.newest_position.tolist()):
            for name, value in batch.records[newest].headers:
                if name == "traceparent" and value is not None:
                    traces[position] = value
        return traces

    def _signal(
        self,
        batch: UserBatch,
        users: UserRows,
        folded: Folded,
        confidence: npt.NDArray[np.float64],
        effects: Effects,
    ) -> None:
        """One signal an applied event, to the partition of its item's owner."""
        columns, applied = folded.columns, folded.applied
        if not len(applied):
            return
        user, item = columns.user[applied], columns.item[applied]
        row = np.full(len(users), -1, np.intp)
        row[folded.touched] = np.arange(len(folded.touched))
        width = confidence.shape[1]
        match = users.item[user, :width] == item[:, None]
        slot = match.argmax(axis=1)
        # An entry that the same batch evicted again has no slot left: its event weighs as a lone one.
        alone = confidence_array(columns.weight[applied], self._policy)
        weight = np.where(match.any(axis=1), confidence[row[user], slot], alone)
        names = np.fromiter((xxh3_64_intdigest(key) for key in batch.keys), np.uint64, len(batch.keys))
        values = encode_signals(
            confidence=weight,
            event_time=columns.timestamp[applied],
            user=names[user],
            generation=self._generation,
            vector=users.vector[user],
        )
        topic, targets, items = self._topics.item_signals, columns.target, columns.item_id
        for event, value in zip(applied.tolist(), values, strict=True):
            effects.send((topic, targets[event]), (items[event].encode(), value, None, []))
        effects.facts["unknown_items"] = float((columns.index[applied] < 0).sum())
        effects.facts["signals"] = float(len(applied))
        effects.facts["top_item"] = float(np.unique(item, return_counts=True)[1].max())
