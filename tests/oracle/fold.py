"""Fold one user's events into the user's row, in log order, one event at a time."""

from __future__ import annotations

import json
from typing import Any

from tests.oracle.hashes import fingerprint, item_hash, request_hash, segment_hash
from tests.oracle.numbers import add_event, decay, to_float32
from tests.oracle.rowbytes import Entry, Key, Suppressed, UserRow
from tests.oracle.rules import SUPPRESSING, Rules

_DAY_MS = 24 * 60 * 60 * 1000

Outcome = tuple[str, str]
"""Outcome and reason ("" for none)."""


def apply_event(row: UserRow, event: dict[str, Any], offset: int, received: int, rules: Rules) -> Outcome:
    """Apply one event that nothing stateless keeps out; the row changes if it is applied or suppressed."""
    at = event["timestamp"]
    request = request_hash(event.get("tenant"), event["user_id"], event["request_id"])
    key = Key(request, fingerprint(event), at // 1000)
    seen = _seen(row, key, rules)
    if seen:
        return seen, ""
    item = item_hash(event["item_id"], rules.item_key)
    suppressing = event["event_type"] in SUPPRESSING
    if not suppressing and _capped(row, item, at, rules):
        return "filtered", "capped"
    if at < received - rules.window_ms:
        return "filtered", "outside_window"
    if at < received - rules.lateness_ms:
        return "late", ""
    _remember(row, key, rules)
    row.event_time = max(row.event_time, at)
    row.source_next = offset + 1
    _note_segment(row, event, rules)
    if suppressing:
        _suppress(row, event, item, rules)
        return "suppressed", ""
    _count(row, at)
    if not _voided(row, item, at):
        weight = rules.weights[event["event_type"]] * float(event.get("value", 1.0))
        _weigh(row, item, at, weight, rules)
    return "applied", ""


def _note_segment(row: UserRow, event: dict[str, Any], rules: Rules) -> None:
    """What the newest event calls it; the greater hash of two at the same time."""
    value = (event.get("context") or {}).get(rules.segment_key) if rules.segment_key else None
    if value is None or value == "":
        return
    name = segment_hash(value if isinstance(value, str) else json.dumps(value))
    if (event["timestamp"], name) > (row.segment_at, row.segment):
        row.segment, row.segment_at = name, event["timestamp"]


def _seen(row: UserRow, key: Key, rules: Rules) -> str:
    live_from = (row.event_time - rules.keys_window_ms) // 1000
    for old in row.keys:
        if old.request == key.request and old.seconds >= live_from:
            return "duplicate" if old.fingerprint == key.fingerprint else "conflict"
    return ""


def _remember(row: UserRow, key: Key, rules: Rules) -> None:
    if len(row.keys) < rules.keys_capacity:
        row.keys.append(key)
    else:
        row.keys[row.key_head] = key
    row.key_head = (row.key_head + 1) % rules.keys_capacity


def _capped(row: UserRow, item: int, at: int, rules: Rules) -> bool:
    if rules.cap_item_strength:
        for entry in row.history:
            faded = entry.strength * decay(max(at - entry.time, 0), rules.half_life_ms)
            if entry.item == item and faded >= rules.cap_item_strength:
                return True
    today = row.cap_day == at // _DAY_MS
    return bool(rules.cap_user_events_per_day) and today and row.cap_count >= rules.cap_user_events_per_day


def _count(row: UserRow, at: int) -> None:
    row.events += 1
    today = at // _DAY_MS
    if today > row.cap_day:
        row.cap_day, row.cap_count = today, 1
    elif today == row.cap_day:
        row.cap_count += 1


def _weigh(row: UserRow, item: int, at: int, weight: float, rules: Rules) -> None:
    """Into the item's entry; a new item of a full history takes the place of the oldest, or is the oldest."""
    for entry in row.history:
        if entry.item == item:
            entry.strength, entry.time = add_event(entry.strength, entry.time, weight, at, rules.half_life_ms)
            return
    fresh = Entry(item, at, to_float32(weight))
    if len(row.history) < rules.history_capacity:
        row.history.append(fresh)
        return
    oldest = min([*row.history, fresh], key=lambda entry: (entry.time, entry.item))
    if oldest is not fresh:
        row.history[row.history.index(oldest)] = fresh


def _suppress(row: UserRow, event: dict[str, Any], item: int, rules: Rules) -> None:
    at, returned = event["timestamp"], event["event_type"] == "return"
    rated = next((entry for entry in row.history if entry.item == item), None)
    found = _suppression(row, item)
    if found is None:
        found = Suppressed(event["item_id"], item, at, 0, rated.time if rated else 0)
        row.suppressed = [*(row.suppressed or []), found]
    found.until = max(found.until, at)
    if returned:
        found.voided = max(found.voided, at)
    row.suppressed = sorted(row.suppressed or [], key=lambda one: one.item_id)
    if len(row.suppressed) > rules.suppress_capacity:
        row.suppressed.remove(min(row.suppressed, key=lambda one: (one.until, one.item)))
    if returned and rated is not None and rated.time <= at:
        row.history.remove(rated)


def _voided(row: UserRow, item: int, at: int) -> bool:
    """Note a positive event on a suppressed item; true if a later return took the event's strength away."""
    found = _suppression(row, item)
    if found is None:
        return False
    found.positive = max(found.positive, at)
    return at <= found.voided


def voided(row: UserRow, event: dict[str, Any], rules: Rules) -> bool:
    """Has the row a return of the event's item that is not older than the event? Then nobody learns from it."""
    found = _suppression(row, item_hash(event["item_id"], rules.item_key))
    return found is not None and event["timestamp"] <= found.voided


def _suppression(row: UserRow, item: int) -> Suppressed | None:
    return next((one for one in row.suppressed or [] if one.item == item), None)
