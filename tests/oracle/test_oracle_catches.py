"""The oracle finds nothing wrong with a right system, and every planted wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from tests.oracle.check import check
from tests.oracle.hand_made import ITEMS, RULES, HandMade, Tamper, interactions, item_log
from tests.oracle.judge import judge
from tests.oracle.logs import LogRecord, Logs, StoreRows
from tests.oracle.report import Report
from tests.oracle.rowbytes import UserRow, encode, parse

_SEED, _COUNT = 11, 600
_KNOWN = {item_id.encode() for item_id in ITEMS}


@cache
def _made() -> HandMade:
    return HandMade(interactions(_SEED, _COUNT)).process().move_items()


def _right() -> Logs:
    return copy.deepcopy(_made().logs)


def _report(logs: Logs) -> Report:
    return check(logs, RULES, bitwise=True)


def _words(report: Report) -> set[str]:
    return {line.split(":")[0] for line in report.violations}


@pytest.mark.parametrize("cuts", [0, 1, 2])
def test_a_right_system_passes_however_its_batches_were_cut(cuts: int) -> None:
    """Batches are an accident of load: they change nothing that is checked."""
    report = _report(HandMade(interactions(_SEED, _COUNT)).process(seed=cuts).logs)
    assert report.violations == []
    assert report.records == _COUNT
    assert report.bitwise == report.vectors > 100
    assert report.dead_letters > 20
    assert report.store_rows > 10


def test_the_generator_reaches_every_outcome_and_reason() -> None:
    """A comparison proves nothing about an outcome that its input never led to."""
    outcomes = _report(HandMade(interactions(3, 4000)).process().logs).totals()
    plain = {"applied", "suppressed", "duplicate", "conflict", "late"}
    dead = {"too_large", "not_utf8", "not_json", "unknown_event_type", "schema", "bad_number"}
    dead |= {"key_mismatch", "wrong_partition", "future"}
    filters = {"no_consent", "bot", "internal", "set_aside", "outside_window"}
    expected = {(name, "") for name in plain} | {("dead_letter", name) for name in dead}
    assert expected | {("filtered", name) for name in filters} == set(outcomes)


# --- what a worker does to its input ---------------------------------------------------------------------


def _effective(records: list[LogRecord]) -> list[int]:
    """Positions of good events of one busy user, none of them seen twice."""
    positions: dict[bytes, dict[str, int]] = {}
    for position, record in enumerate(records):
        event = judge(record, RULES).event
        if event is not None and event["event_type"] == "click" and record.key is not None:
            positions.setdefault(record.key, {}).setdefault(event["request_id"], position)
    return sorted(max(positions.values(), key=len).values())


def _lose(records: list[LogRecord]) -> list[LogRecord]:
    at = _effective(records)[2]
    return records[:at] + records[at + 1 :]


def _double(records: list[LogRecord]) -> list[LogRecord]:
    """Once more under another request id, as if the idempotency key had been lost."""
    at = _effective(records)[2]
    record = records[at]
    assert record.value is not None
    again = json.dumps(json.loads(record.value) | {"request_id": "again"}).encode()
    return [*records[: at + 1], replace(record, value=again), *records[at + 1 :]]


def _swap(records: list[LogRecord]) -> list[LogRecord]:
    one, other = _effective(records)[2:4]
    swapped = list(records)
    swapped[one] = replace(records[other], offset=records[one].offset)
    swapped[other] = replace(records[one], offset=records[other].offset)
    return swapped


def _lose_the_last(records: list[LogRecord]) -> list[LogRecord]:
    at = _effective(records)[-1]
    return records[:at] + records[at + 1 :]


def _swallow_a_bad_one(records: list[LogRecord]) -> list[LogRecord]:
    at = next(position for position, record in enumerate(records) if judge(record, RULES).refused)
    return records[:at] + records[at + 1 :]


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (_lose, {"rows", "outcomes"}),
        (_double, {"rows", "outcomes"}),
        (_swap, {"rows"}),
        (_lose_the_last, {"rows", "outcomes"}),
        (_swallow_a_bad_one, {"letters", "outcomes"}),
    ],
)
def test_what_a_worker_makes_of_its_input_is_held_against_the_log(tamper: Tamper, words: set[str]) -> None:
    """Lost, doubled and swapped events show in the rows, whatever else agrees with them."""
    report = _report(HandMade(interactions(_SEED, _COUNT)).process(tamper=tamper).logs)
    assert words <= _words(report)


def test_vectors_of_other_item_vectors_are_found() -> None:
    """A worker whose item replica lags or mixes generations solves against the wrong matrix."""
    made = HandMade(interactions(_SEED, _COUNT), solved_with=item_log(seed=1)).process()
    assert _words(_report(made.logs)) == {"vectors"}


def test_a_batch_that_two_owners_committed_is_found() -> None:
    """What a zombie does without fencing: the same batch twice, from the same rows."""
    log = interactions(_SEED, _COUNT)
    made = HandMade(log)
    twin = HandMade(log)
    batch = log[0][:40]
    for worker in (made, twin):
        worker.commit(0, batch, batch[-1].offset + 1)
    for topic, other in (
        (made.state, twin.state),
        (made.factors, twin.factors),
        (made.letters, twin.letters),
        (made.signals, twin.signals),
    ):
        shift = len(topic[0])
        topic[0] += [replace(record, offset=record.offset + shift) for record in other[0]]
    assert {"versions", "offsets", "letters", "signals"} <= _words(_report(made.logs))


# --- what lies in the topics and stores ------------------------------------------------------------------


def _last_row(logs: Logs, least_version: int = 3) -> int:
    """Position in partition 0's changelog of the last row of a user with several revisions."""
    return max(
        position
        for position, record in enumerate(logs.user_state[0])
        if record.key and record.value and parse(record.value, 4, 12, 20).version >= least_version
    )


def _bend_row(logs: Logs, bend: Callable[[UserRow], object]) -> None:
    at = _last_row(logs)
    record = logs.user_state[0][at]
    assert record.value is not None
    row = parse(record.value, 4, 12, 20)
    bend(row)
    logs.user_state[0][at] = replace(record, value=encode(row, 12, 20))
    logs.stores = None


def _stale_vector(logs: Logs) -> None:
    key = logs.user_state[0][_last_row(logs)].key
    values = [record.value for record in logs.user_state[0] if record.key == key]
    older = parse(values[-2] or b"", 4, 12, 20).vector
    _bend_row(logs, lambda row: setattr(row, "vector", older))


def _nan(logs: Logs) -> None:
    _bend_row(logs, lambda row: row.vector.fill(float("nan")))


def _version_gap(logs: Logs) -> None:
    _bend_row(logs, lambda row: setattr(row, "version", row.version + 1))


def _lost_key(logs: Logs) -> None:
    _bend_row(logs, lambda row: row.keys.pop())


def _bent_strength(logs: Logs) -> None:
    def bend(row: UserRow) -> None:
        row.history[0].strength *= 1.0000002

    _bend_row(logs, bend)


def _event_miscounted(logs: Logs) -> None:
    _bend_row(logs, lambda row: setattr(row, "events", row.events + 1))


def _dirty_padding(logs: Logs) -> None:
    record = logs.user_state[0][0]
    row = parse(record.value or b"", 4, 12, 20)
    assert len(row.keys) < 8
    assert row.suppressed is None
    logs.user_state[0][0] = replace(record, value=(record.value or b"")[:-1] + b"\x01")
    logs.stores = None


def _lost_changelog_row(logs: Logs) -> None:
    del logs.user_state[0][_last_row(logs)]
    logs.stores = None


def _lost_publication(logs: Logs) -> None:
    del logs.user_factors[0][len(logs.user_factors[0]) // 2]


def _published_twice(logs: Logs) -> None:
    logs.user_factors[1].append(logs.user_factors[1][-1])


def _published_otherwise(logs: Logs) -> None:
    record = logs.user_factors[0][5]
    body = json.loads(record.value or b"")
    body["vector"][0] += 1e-6
    logs.user_factors[0][5] = replace(record, value=json.dumps(body).encode())


def _aborted_row_leaked(logs: Logs) -> None:
    _bend_row(logs, lambda row: setattr(row, "source_next", row.source_next + 10_000))


def _lost_letter(logs: Logs) -> None:
    del logs.dead_letters[0][3]


def _letter_twice(logs: Logs) -> None:
    logs.dead_letters[0].append(logs.dead_letters[0][3])


def _letter_bent(logs: Logs) -> None:
    at = next(n for n, record in enumerate(logs.dead_letters[0]) if record.value)
    logs.dead_letters[0][at] = replace(logs.dead_letters[0][at], value=b"{}")


def _letter_rekeyed(logs: Logs) -> None:
    logs.dead_letters[0][3] = replace(logs.dead_letters[0][3], key=b"other")


def _letter_with_another_reason(logs: Logs) -> None:
    record = logs.dead_letters[0][3]
    headers = tuple((name, b"bot" if name == "factors.reason" else value) for name, value in record.headers)
    logs.dead_letters[0][3] = replace(record, headers=headers)


def _letter_without_its_headers(logs: Logs) -> None:
    at, letters = next(
        (position, letters)
        for letters in logs.dead_letters.values()
        for position, record in enumerate(letters)
        if dict(record.headers).get("origin")
    )
    letters[at] = replace(letters[at], headers=tuple(h for h in letters[at].headers if h[0] != "origin"))


def _letter_for_a_good_event(logs: Logs) -> None:
    good = next(record for record in logs.interactions[0] if judge(record, RULES).event is not None)
    headers = dict(logs.dead_letters[0][3].headers) | {"__streams.errors.offset": str(good.offset).encode()}
    logs.dead_letters[0].append(replace(good, headers=tuple(headers.items())))


def _store(logs: Logs) -> dict[bytes, bytes]:
    assert logs.stores is not None
    store = logs.stores[0][0]
    assert isinstance(store, StoreRows)
    return store.rows


def _store_row_missing(logs: Logs) -> None:
    rows = _store(logs)
    del rows[min(rows)]


def _store_row_stale(logs: Logs) -> None:
    record = logs.user_state[0][_last_row(logs)]
    values = [older.value for older in logs.user_state[0] if older.key == record.key]
    _store(logs)[record.key or b""] = values[-2] or b""


def _store_row_of_nobody(logs: Logs) -> None:
    rows = _store(logs)
    rows[b"nobody"] = rows[min(rows)]


def _store_unreadable(logs: Logs) -> None:
    assert logs.stores is not None
    logs.stores = {**logs.stores, 0: ["state can't be read to its end: Corruption"]}


def _stores_all_behind(logs: Logs) -> None:
    """A stale store is right as far as it goes; that none is complete is wrong."""
    assert logs.stores is not None
    first = logs.user_state[0][0]
    assert first.key
    assert first.value
    behind = StoreRows("state", {first.key: first.value}, first.offset + 1)
    logs.stores = {**logs.stores, 0: [behind]}


def _lost_signal(logs: Logs) -> None:
    del logs.signals[0][7]


def _signal_twice(logs: Logs) -> None:
    logs.signals[0].append(logs.signals[0][7])


def _signal_astray(logs: Logs) -> None:
    logs.signals = {0: [], 1: logs.signals[0]}


def _signal_damaged(logs: Logs) -> None:
    logs.signals[0][7] = replace(logs.signals[0][7], value=b"\x01\x03")


def _lost_item_signal(logs: Logs) -> None:
    """Two owners of a lost signal: both its row and the log would be right, and the item side is not."""
    key = logs.item_state[0][0].key
    at = next(n for n, record in enumerate(logs.signals[0]) if record.key == key)
    logs.signals[0].insert(at, logs.signals[0][at])


def _item_row_lost(logs: Logs) -> None:
    del logs.item_state[0][next(n for n, record in enumerate(logs.item_state[0]) if record.key)]


def _item_row_twice(logs: Logs) -> None:
    logs.item_state[0].insert(0, logs.item_state[0][0])


def _item_moved_otherwise(logs: Logs) -> None:
    at = max(n for n, record in enumerate(logs.item_state[0]) if record.key in _KNOWN)
    record = logs.item_state[0][at]
    data = bytearray(record.value or b"")
    data[64 + 2] ^= 0x40
    logs.item_state[0][at] = replace(record, value=bytes(data))


def _item_published_twice(logs: Logs) -> None:
    logs.items[0].append(logs.items[0][-1])


def _item_offset_behind(logs: Logs) -> None:
    assert logs.items_committed is not None
    logs.items_committed[0] -= 1


def _offset_ahead(logs: Logs) -> None:
    logs.committed[0] -= 1


def _offset_lost(logs: Logs) -> None:
    del logs.committed[0]


def _event_vanished(logs: Logs) -> None:
    logs.acked = {*(logs.acked or ()), (0, 10**9)}


def _counters_off(logs: Logs) -> None:
    assert logs.counters is not None
    logs.counters["applied", ""] += 1


@pytest.mark.parametrize(
    ("plant", "word"),
    [
        (_stale_vector, "vectors"),
        (_nan, "vectors"),
        (_version_gap, "versions"),
        (_lost_key, "rows"),
        (_bent_strength, "rows"),
        (_event_miscounted, "rows"),
        (_dirty_padding, "rows"),
        (_lost_changelog_row, "rows"),
        (_aborted_row_leaked, "rows"),
        (_lost_publication, "factors"),
        (_published_twice, "versions"),
        (_published_otherwise, "factors"),
        (_lost_letter, "letters"),
        (_letter_twice, "letters"),
        (_letter_bent, "letters"),
        (_letter_rekeyed, "letters"),
        (_letter_with_another_reason, "letters"),
        (_letter_without_its_headers, "letters"),
        (_letter_for_a_good_event, "letters"),
        (_store_row_missing, "store"),
        (_store_row_stale, "store"),
        (_store_row_of_nobody, "store"),
        (_store_unreadable, "store"),
        (_stores_all_behind, "store"),
        (_lost_signal, "signals"),
        (_signal_twice, "signals"),
        (_signal_astray, "signals"),
        (_signal_damaged, "signals"),
        (_lost_item_signal, "items"),
        (_item_row_lost, "items"),
        (_item_row_twice, "items"),
        (_item_moved_otherwise, "items"),
        (_item_published_twice, "items"),
        (_item_offset_behind, "items"),
        (_offset_ahead, "offsets"),
        (_offset_lost, "offsets"),
        (_event_vanished, "offsets"),
        (_counters_off, "outcomes"),
    ],
)
def test_a_planted_wrong_is_found(plant: Callable[[Logs], None], word: str) -> None:
    """One thing bent in an otherwise right system."""
    logs = _right()
    plant(logs)
    assert word in _words(_report(logs))


def test_an_empty_comparison_is_a_failure() -> None:
    """Nothing wrong with nothing proves nothing."""
    report = _report(_empty())
    assert _words(report) == {"outcomes"}
    assert not report.good


def _empty() -> Logs:
    right = _right()
    return Logs(
        manifest=right.manifest,
        interactions={0: [], 1: []},
        committed={},
        user_state={},
        user_factors={},
        dead_letters={},
        items=right.items,
        signals={},
    )


def test_the_report_says_what_was_compared_and_what_is_wrong() -> None:
    """A person reads it."""
    logs = _right()
    _store_row_missing(logs)
    text = str(_report(logs))
    assert f"{_COUNT} records" in text
    assert "VIOLATION store: user 'u" in text
    assert text.endswith("1 violations")


def test_the_stream_is_the_same_for_the_same_seed() -> None:
    """A failure names its seed, and the seed brings it back."""
    assert interactions(5, 300) == interactions(5, 300)
    assert interactions(5, 300) != interactions(6, 300)
