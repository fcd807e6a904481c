"""What the topics say about model generations: manifests, the active one, its items, and the rows solved with it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from kafka import KafkaConsumer, TopicPartition

from schemas.commands import ACTIVE_KEY
from schemas.cuts import GENERATION_KEY
from schemas.layouts import MARKER_KEY, LayoutError, RowShape, UserRows, decode_user_rows
from schemas.records import CatalogueEntry, Control, Manifest
from streamer.commands.cluster import newest_of, places_of, read_to_end
from streamer.errors import BrokerError, CheckFailed, DataError
from streamer.events.activation import number_of
from streamer.factors.explicit import weights_now
from streamer.factors.ridge import ridge_in
from streamer.factors.weigh import confidence_now, inside_window, strength_at
from streamer.reader import Factor, decode_factor
from streamer.settings import Settings
from streamer.steps.items import Items

_CHUNK = 2_000


@dataclass(frozen=True, slots=True)
class Generations:
    """The manifests published, in the order of their publication, and the standing command."""

    manifests: Mapping[str, Manifest]
    active: Control | None

    def served(self) -> tuple[Manifest, str]:
        """The active manifest and the topic of its item vectors.

        Raises:
            CheckFailed: none is active, or its manifest is missing.
        """
        if self.active is None:
            raise CheckFailed("no model is active: run `python -m bootstrap run`, or `streamer models activate`.")
        manifest = self.manifests.get(self.active.model_version)
        if manifest is None:
            raise CheckFailed(f"{self.active.model_version} is active, but its manifest is not in the models topic.")
        return manifest, self.active.item_topic

    @property
    def number(self) -> int:
        """What rows and signals of the active generation are stamped with."""
        assert self.active is not None
        return number_of(self.active)


def generations(consumer: KafkaConsumer, settings: Settings) -> Generations:
    """Read both topics.

    Raises:
        BrokerError: a topic is missing.
        DataError: one holds something else.
    """
    manifests: dict[str, Manifest] = {}
    for record in read_to_end(consumer, places_of(consumer, settings.topic("models"))):
        version = (record.key or b"").decode("utf-8", "replace")
        manifests.pop(version, None)
        if record.value is not None:
            manifests[version] = _decode(record, Manifest)
    command = newest_of(consumer, settings.topic("control"), ACTIVE_KEY.decode())
    return Generations(manifests, None if command is None else _decode(command, Control))


def _decode(record: Any, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(record.value, type=kind)
    except (msgspec.DecodeError, ValueError) as problem:
        where = f"{record.topic}-{record.partition} at offset {record.offset}"
        raise DataError(f"{where} holds no {kind.__name__.lower()}: {problem}.") from None


@dataclass(slots=True)
class ItemSide:
    """The item vectors of a generation as they stand.

    ``moved``: (item partitions,) the offset of the last record in each that changed a vector, -1 where none did; a
    record that repeats what is known is no change.
    """

    items: Items
    moved: npt.NDArray[np.int64]


def load_items(
    consumer: KafkaConsumer,
    settings: Settings,
    known: Generations,
    advance: Callable[[int], None] = lambda _: None,
) -> ItemSide:
    """Read the active generation's item vectors: as they were trained, and as the stream moved them since.

    Raises:
        BrokerError: a topic is missing.
        DataError: there is none of this generation.
    """
    manifest, base = known.served()
    common = places_of(consumer, settings.topic("item-factors"))
    items = Items(
        dimension=manifest.width,
        ridge=ridge_in(manifest),
        item_key=bytes.fromhex(manifest.item_key),
        partitions=len(common),
    )
    moved = np.full(len(common), -1, np.int64)
    newest: dict[str, Factor] = {}
    if base != settings.topic("item-factors"):
        _newest(consumer, places_of(consumer, base), manifest, newest, np.zeros(len(common), np.int64), advance)
    _newest(consumer, common, manifest, newest, moved, advance)
    _take(items, list(newest.values()))
    if not items.space.size:
        raise DataError(f"{base} holds no item vector of the active model {manifest.model_version}.")
    items.settle()
    return ItemSide(items, moved)


def _newest(
    consumer: KafkaConsumer,
    places: list[TopicPartition],
    manifest: Manifest,
    newest: dict[str, Factor],
    moved: npt.NDArray[np.int64],
    advance: Callable[[int], None],
) -> None:
    """Put each item's newest record of the generation into ``newest``, and where vectors changed into ``moved``."""
    for record in read_to_end(consumer, places, advance):
        # An erased item keeps its last vector until the next generation, as in the workers.
        factor = decode_factor(record, "item")
        if factor.vector is None or factor.model_version != manifest.model_version:
            continue
        before = newest.get(factor.id)
        if before is not None and factor.version <= before.version:
            continue
        if before is None or before.vector is None or not np.array_equal(before.row, factor.row):
            moved[record.partition] = record.offset
        newest[factor.id] = factor


def _take(items: Items, factors: list[Factor]) -> None:
    if factors:
        vectors = np.stack([factor.row for factor in factors])
        ids, versions = [factor.id for factor in factors], [factor.version for factor in factors]
        items.put(ids, versions, vectors, [factor.weight for factor in factors])


def rows_of(manifest: Manifest, side: ItemSide, values: Sequence[bytes]) -> UserRows:
    """User rows of this generation's shape.

    Raises:
        DataError: they are of another shape.
    """
    policy = manifest.policy
    shape = RowShape(manifest.width, policy.history_capacity, policy.keys_capacity, len(side.items.epochs))
    try:
        return decode_user_rows(list(values), shape)
    except LayoutError as problem:
        raise DataError(f"user-state holds rows of another shape than the active model's: {problem}.") from None


def read_user_rows(
    consumer: KafkaConsumer, settings: Settings, advance: Callable[[int], None] = lambda _: None
) -> dict[bytes, bytes]:
    """The newest row of every user."""
    rows: dict[bytes, bytes] = {}
    for record in read_to_end(consumer, places_of(consumer, settings.topic("user-state")), advance):
        if record.key in (None, MARKER_KEY, GENERATION_KEY):
            continue
        if record.value is None:
            rows.pop(record.key, None)
        else:
            rows[record.key] = record.value
    return rows


@dataclass(frozen=True, slots=True)
class History:
    """One user's history as a solve sees it, all (n,): index -1 is an item that does not count.

    The model does not know it, or it is outside of the window (``inside`` is False).

    Of explicit feedback ``strength`` is the rating, and ``confidence`` its weight.
    """

    index: npt.NDArray[np.int32]
    item: npt.NDArray[np.uint64]
    time: npt.NDArray[np.int64]
    strength: npt.NDArray[np.float64]
    confidence: npt.NDArray[np.float64]
    inside: npt.NDArray[np.bool_]


def history_of(rows: UserRows, at: int, manifest: Manifest, items: Items) -> History:
    """Strengths decayed to the user's newest event, and the confidences made of them: the worker's own functions."""
    count = int(rows.head["entries"][at])
    item, time = rows.item[at, :count], rows.time[at, :count]
    policy, now, used = manifest.policy, time.max(keepdims=True, initial=0), np.ones(count, bool)
    inside = inside_window(time, int(rows.head["event_time"][at]), policy)
    index = np.where(inside, items.space.lookup(item), np.int32(-1))
    if policy.feedback == "explicit":
        rating = rows.strength[at, :count].astype(np.float64)
        return History(index, item, time, rating, weights_now(time, used, policy), inside)
    strength = strength_at(rows.strength[at, :count], time, now, policy.half_life_ms)
    confidence = confidence_now(rows.strength[at, :count], time, used, policy)
    return History(index, item, time, strength, confidence, inside)


def titles_of(consumer: KafkaConsumer, settings: Settings) -> dict[str, str]:
    """Item titles, as far as there is a catalogue."""
    try:
        places = places_of(consumer, settings.topic("items"))
    except BrokerError:
        return {}
    titles: dict[str, str] = {}
    for record in read_to_end(consumer, places):
        item_id = (record.key or b"").decode("utf-8", "replace")
        titles.pop(item_id, None)
        if record.value is not None:
            titles[item_id] = _decode(record, CatalogueEntry).title
    return titles


def chunks(rows: Mapping[bytes, bytes], size: int = _CHUNK) -> Iterator[list[tuple[bytes, bytes]]]:
    """The rows, some at a time."""
    pairs = list(rows.items())
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]
