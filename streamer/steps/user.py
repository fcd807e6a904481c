"""The user step: events of one partition in, refreshed user rows and vectors out.

    records -> read (decode, validate, filter) -> rows -> fold (dedupe, weigh) -> solve -> guard -> publish

Pure: the same records, rows and item view give the same effects. Each user of a batch is solved and published once,
however many events the batch holds for that user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
from xxhash import xxh3_64_intdigest

from schemas.layouts import RowShape, encode_signals, generation_of, source_next_of
from schemas.outcomes import DEAD_LETTER_REASONS, Outcome, Reason
from schemas.records import INT64_MAX, Interaction, Manifest
from streamer.events.decode import decode
from streamer.events.explain import explain
from streamer.events.hashes import fingerprint, generation_id, partition, request_hash, segment_hash, segment_name
from streamer.events.read import Reader
from streamer.events.verdicts import Filtered, Rejected
from streamer.factors.kernel.rules import N_NEWEST
from streamer.factors.packed import pack
from streamer.factors.serving import priors_in
from streamer.factors.weigh import event_weights
from streamer.steps.compiled import compiled
from streamer.steps.effects import Effects, Outgoing
from streamer.steps.encoder import Encoder
from streamer.steps.fold import EMPTY, KIND_OF, Columns, Events, Index
from streamer.steps.items import Items
from streamer.steps.pairs import pair_signals
from streamer.steps.parity import parity_error
from streamer.steps.prequential import Sampler
from streamer.steps.records import AVERAGE, FOUND_WITH_THE_ROW, HISTORY, Publisher, dead_letter, served_fields
from streamer.steps.refresh import Generation, Refreshed, refresh
from streamer.steps.renew import Signals, renew

_TRACE_BYTES = 256  # W3C Trace Context: 55, later versions some more
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
    ahead: bool = False
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
        sample: float = 0.0,
        audit: Callable[[], bool] = lambda: False,
        generation: int | None = None,
        founding: bool = True,
        shapes: Mapping[int, RowShape] | None = None,
        told: Mapping[int, int] | None = None,
    ) -> None:
        """``sample``: the share of the events that goes to the judge; ``generation``: by default the model's own.

        ``audit``: asked once a batch, whether to solve one of its users afresh and compare (`facts`); ``shapes``: of
        the rows of other generations, where they are not this one's; ``told``: generations of rows whose items have
        been told of all events up to a time (ms), where that is not this one's training data alone.
        """
        policy = manifest.policy
        self.founding, self._shapes = founding, shapes or {}
        # Where a producer's clock was ahead, the broker's says what the training can't have held.
        ends = (manifest.training_data_end, manifest.cut_time)
        self._trained = min(end for end in ends if end is not None)
        self._cut_offsets = {int(number): offset for number, offset in manifest.cut_offsets.items()}
        self._audit, self._told = audit, told or {}
        self._policy, self._items, self._topics, self._reader = policy, items, topics, reader
        self._weights = event_weights(policy)
        self._generation = Generation(
            policy,
            RowShape(manifest.width, policy.history_capacity, policy.keys_capacity, len(items.epochs)),
            generation_id(manifest.model_version) if generation is None else generation,
            np.array(manifest.average_row, np.float32),
            solver,
            tolerance,
            priors_in(manifest),
            manifest.global_mean,
        )
        self._publisher = Publisher(
            "user", source, manifest.model_version, manifest.dimension, manifest.training_data_end, encoding
        )
        judged = sample > 0 and policy.feedback == "implicit"  # ratings are not ranked
        self._sampler = Sampler(sample, manifest.model_version, items, self._generation) if judged else None
        # Compiles where that has not been done before: here, and never while a batch waits.
        self._compiled = compiled(items, self._generation)
        self._encoder: Encoder | None = None
        if self._compiled is not None:
            names = (topics.interactions, topics.user_factors, topics.item_signals)
            self._encoder = Encoder(self._publisher, self._generation.number, len(items.epochs), *names)

    # --- read: what needs no row --------------------------------------------------------------------------------

    def read(self, records: Sequence[Any], partition: int) -> UserBatch:
        """Decode and judge each record; good events become columns, the rest is done with here."""
        batch = UserBatch(partition, records)
        read, item_of, weights, kind_of = self._reader.read, self._items.of, self._weights, KIND_OF
        users: dict[bytes, int] = {}
        append, append_id = batch.events.rows.append, batch.events.item_ids.append
        segment_key = self._policy.segment_key
        for position, record in enumerate(records):
            verdict = read(record)
            if isinstance(verdict, Interaction):
                index, item, target = item_of(verdict.item_id)
                kind = verdict.event_type
                append_id(verdict.item_id)
                if segment_key:
                    batch.events.segments.append(segment_hash(segment_name(verdict.context, segment_key)))
                append(
                    pack(
                        position,
                        users.setdefault(record.key, len(users)),
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

    # --- renew: rows of another generation ----------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """`generation_id` of what is served."""
        return self._generation.number

    def stale(self, key: bytes, row: bytes | None) -> bool:
        """Is it a row of another generation?"""
        return row is not None and generation_of(row) != self._generation.number

    def give_up(self, batch: UserBatch) -> None:
        """Events have no generation."""

    def unwritten(self, partition: int) -> list[bytes]:
        """None: a user without a row is nobody yet."""
        return []

    def renew(self, keys: Sequence[bytes], rows: Sequence[bytes | None], partition: int) -> Effects:
        """Solve users anew from their kept histories, and tell the items of what this generation was not trained on."""
        batch = UserBatch(partition, [])
        since = np.array([self._since(row, partition) for row in rows if row is not None], np.int64)
        renewed = renew(rows, self._shapes, self._items, self._generation, since)
        self._finish(batch, EMPTY, list(keys), renewed.users, batch.effects)
        names = np.array([xxh3_64_intdigest(key) for key in keys], np.uint64)
        self._send_signals(renewed.signals, names, renewed.users.vectors, batch.effects)
        return batch.effects

    def _since(self, row: bytes, partition: int) -> int:
        """The newest event time (ms) that the items have heard of this user's; all of it, if nothing came since."""
        if source_next_of(row) <= self._cut_offsets.get(partition, -1):
            return INT64_MAX
        return self._told.get(generation_of(row), self._trained)

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
        if self._encoder is None:
            fresh = refresh(columns, rows, strangers, self._items, self._generation)
            self._finish(batch, columns, batch.keys, fresh, effects)
            self._count_signals(columns, fresh.applied, effects)
            self._sample(batch, columns, rows, fresh.applied, effects)
        else:
            self._apply_compiled(batch, columns, rows, strangers, effects)
        if effects.rows and self._audit():
            # Any user will do, as long as it is not always the same one.
            chosen = effects.rows[batch.records[0].offset % len(effects.rows)][1]
            error = parity_error(chosen, self._items, self._generation)
            if error is not None:
                effects.facts["parity_error"] = error
        return effects

    def reuse(self, effects: Effects) -> None:
        """Take back the memory of effects that nobody will look at again."""
        if self._encoder is not None:
            self._encoder.reuse(effects)

    def _apply_compiled(
        self,
        batch: UserBatch,
        columns: Columns,
        rows: Sequence[bytes | None],
        strangers: list[int],
        effects: Effects,
    ) -> None:
        """Plain users by the compiled kernel, and everyone else by numpy."""
        assert self._compiled is not None
        assert self._encoder is not None
        plain = self._compiled.refresh(columns, rows, strangers)
        effects.outcomes.update(plain.outcomes)
        if len(plain.numbers):
            effects.facts.update(plain.facts)
            effects.norms = plain.norms
            traces = self._traces(batch, plain.numbers[:, N_NEWEST].tolist())
            epochs = self._items.epochs.tolist()
            self._encoder.encode(batch.keys, columns, plain, batch.partition, epochs, traces, effects)
        applied, others = plain.applied, plain.others
        if len(others):
            theirs, events = columns.of_users(others, len(rows))
            strange = np.flatnonzero(np.isin(others, strangers)).tolist() if strangers else []
            rest = refresh(theirs, [rows[user] for user in others.tolist()], strange, self._items, self._generation)
            rest.dead_letters = sorted(rest.dead_letters + plain.dead_letters, key=lambda letter: letter[1])
            self._finish(batch, theirs, [batch.keys[user] for user in others.tolist()], rest, effects)
            applied = np.concatenate((applied, events[rest.applied]))
        else:
            self._dead_letters(batch, plain.dead_letters)
        self._count_signals(columns, applied, effects)
        self._sample(batch, columns, rows, applied, effects)

    def _finish(
        self, batch: UserBatch, columns: Columns, users: list[bytes], fresh: Refreshed, effects: Effects
    ) -> None:
        """Put what numpy refreshed into the effects, beside what may be there; ``users`` are the columns' keys."""
        effects.outcomes.update(fresh.outcomes)
        self._dead_letters(batch, fresh.dead_letters)
        if not len(fresh.users):
            return
        keys = [users[user] for user in fresh.users.tolist()]
        effects.rows += zip(keys, fresh.row, strict=True)
        norms = np.asarray(fresh.norms, np.float64)
        effects.norms = norms if effects.norms is None else np.concatenate((effects.norms, norms))
        effects.add_facts(fresh.facts)
        self._publish(batch, keys, fresh, effects)
        self._signal(columns, keys, fresh, effects)

    def _sample(
        self, batch: UserBatch, columns: Columns, rows: Sequence[bytes | None], applied: Index, effects: Effects
    ) -> None:
        """Put a sample of the events aside for the judge, as things were before this batch."""
        if self._sampler is None:
            return

        def type_of(position: int) -> str:
            # Not the reader: the catalogue may have banned the item since.
            record = batch.records[position]
            event = decode(record.value) or explain(record.value, record.headers)
            assert isinstance(event, Interaction)
            return event.event_type

        effects.sampled.append(self._sampler.sample(columns, rows, applied, type_of))

    def _settle_held(self, batch: UserBatch, strangers: list[int]) -> None:
        """The wrong partition comes before what the reader found, but only a user without a row can be on one."""
        for position, user, verdict in batch.held:
            strange = Rejected(Reason.WRONG_PARTITION, (FOUND_WITH_THE_ROW[Reason.WRONG_PARTITION],))
            ended = strange if user in strangers else verdict
            self._end(batch, batch.records[position], ended)

    def _dead_letters(self, batch: UserBatch, letters: Sequence[tuple[Reason | Outcome, int]]) -> None:
        target = (self._topics.dead_letters, batch.partition)
        for reason, position in letters:
            why = (FOUND_WITH_THE_ROW[reason],)
            batch.effects.send(target, dead_letter(batch.records[position], self._topics.interactions, reason, why))

    def _publish(self, batch: UserBatch, keys: list[bytes], fresh: Refreshed, effects: Effects) -> None:
        place = f"{self._topics.interactions}/{batch.partition}/".encode()
        vectors, extras = fresh.vectors, [AVERAGE if is_average else HISTORY for is_average in fresh.average]
        if fresh.served is not None:
            vectors, extras = fresh.served.vectors, served_fields(fresh.served)
        if fresh.suppressed:
            for number, user in enumerate(fresh.users.tolist()):
                if fresh.suppressed.get(user):
                    ids = b'"suppressed":' + orjson.dumps(fresh.suppressed[user])
                    extras[number] = extras[number].replace(b'"suppressed":[]', ids)
        effects.sends.setdefault((self._topics.user_factors, batch.partition), []).extend(
            self._publisher.records(
                keys,
                vectors,
                fresh.version,
                fresh.events,
                fresh.event_time,
                extras,
                [b"%b%d" % (place, after - 1) for after in fresh.source_next],
                self._items.epochs.tolist(),
                self._traces(batch, fresh.newest),
            )
        )

    @staticmethod
    def _traces(batch: UserBatch, newest_of: Sequence[int]) -> dict[int, bytes]:
        """The traceparent of each published user's newest event, where it had one; costs nothing where none has."""
        if not any(record.headers for record in batch.records):
            return {}
        traces = {}
        for position, newest in enumerate(newest_of):
            for name, value in batch.records[newest].headers:
                if name == "traceparent" and value is not None and len(value) <= _TRACE_BYTES:
                    traces[position] = value
        return traces

    def _signal(self, columns: Columns, keys: list[bytes], fresh: Refreshed, effects: Effects) -> None:
        """One signal an applied event, to the partition of its item's owner; or one for each item of a pair."""
        applied = fresh.applied
        if not len(applied):
            return
        names = np.array([xxh3_64_intdigest(key) for key in keys], np.uint64)
        if self._policy.sgd_objective == "bpr":
            for number, signal in pair_signals(columns, fresh, names, self._items, self._generation):
                effects.send((self._topics.item_signals, number), signal)
            return
        signals = Signals(
            fresh.owner,
            fresh.confidence,
            columns.timestamp[applied],
            [columns.item_id[event] for event in applied.tolist()],
            columns.target[applied].tolist(),
        )
        self._send_signals(signals, names, fresh.vectors, effects)

    def _send_signals(
        self, signals: Signals, names: npt.NDArray[np.uint64], vectors: npt.NDArray[np.float32], effects: Effects
    ) -> None:
        if not signals.item_ids:
            return
        # What is told late has no pair any more: it counts beside an item of score 0.
        lone = (np.zeros(len(signals.owner)), np.ones(len(signals.owner)))
        values = encode_signals(
            confidence=signals.confidence,
            event_time=signals.event_time,
            user=names[signals.owner],
            generation=self._generation.number,
            vector=vectors[signals.owner],
            pair=lone if self._policy.sgd_objective == "bpr" else None,
        )
        by_target: dict[int, list[Outgoing]] = {target: [] for target in signals.targets}
        for target, item, value in zip(signals.targets, signals.item_ids, values, strict=True):
            by_target[target].append((item.encode(), value, None, []))
        topic = self._topics.item_signals
        for target, outgoing in by_target.items():
            effects.sends.setdefault((topic, target), []).extend(outgoing)

    @staticmethod
    def _count_signals(columns: Columns, applied: Index, effects: Effects) -> None:
        """What the metrics want to know of the applied events."""
        if not len(applied):
            return
        top = np.unique(columns.item[applied], return_counts=True)[1].max()
        effects.facts["unknown_items"] = float(np.count_nonzero(columns.index[applied] < 0))
        effects.facts["signals"] = float(len(applied))
        effects.facts["top_item"] = float(top)
