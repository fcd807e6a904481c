"""The closed lists of what can become of a record: one spelling for header, metric label and runbook.

Both lists stand in the order of the decisions: the first that applies wins.
"""

from enum import StrEnum
from types import MappingProxyType


class Outcome(StrEnum):
    """Where every record delivered ends, exactly once; the counts add up to the records delivered."""

    APPLIED = "applied"
    SUPPRESSED = "suppressed"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    LATE = "late"
    FILTERED = "filtered"
    DEAD_LETTER = "dead_letter"


class Reason(StrEnum):
    """Why a record is a dead letter or filtered."""

    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    UNKNOWN_EVENT_TYPE = "unknown_event_type"
    SCHEMA = "schema"
    BAD_NUMBER = "bad_number"
    KEY_MISMATCH = "key_mismatch"
    WRONG_PARTITION = "wrong_partition"
    FUTURE = "future"

    NO_CONSENT = "no_consent"
    BOT = "bot"
    INTERNAL = "internal"
    WRONG_TENANT = "wrong_tenant"
    INVALID_ITEM = "invalid_item"
    SET_ASIDE = "set_aside"
    CAPPED = "capped"
    OUTSIDE_WINDOW = "outside_window"
    ERASED = "erased"


DEAD_LETTER_REASONS = frozenset(
    {
        Reason.TOO_LARGE,
        Reason.NOT_UTF8,
        Reason.NOT_JSON,
        Reason.UNKNOWN_EVENT_TYPE,
        Reason.SCHEMA,
        Reason.BAD_NUMBER,
        Reason.KEY_MISMATCH,
        Reason.WRONG_PARTITION,
        Reason.FUTURE,
    }
)

OUTCOME_OF_REASON = MappingProxyType(
    {reason: Outcome.DEAD_LETTER if reason in DEAD_LETTER_REASONS else Outcome.FILTERED for reason in Reason}
)
"""Each reason belongs to one of two outcomes; the other outcomes have none (metric label ``""``)."""
