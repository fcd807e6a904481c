"""Read one record: decode, validate, filter. Everything that can be decided without the user's row."""

from collections.abc import Container

from schemas.outcomes import Reason
from schemas.records import POSITIVES, Interaction, Policy
from streamer.events.decode import decode
from streamer.events.explain import explain, says_value
from streamer.events.filter import filter_event
from streamer.events.record import Record
from streamer.events.validate import validate
from streamer.events.verdicts import FieldError, Filtered, Rejected

_NO_RATING = Filtered(Reason.SET_ASIDE)


class Reader:
    """Turns records into events, in the contract's order of decisions; it keeps no state and never raises.

    Args:
        policy: the generation's; ``future_ms`` and ``feedback`` count here.
        tenant: the only tenant served; None serves all.
        max_bytes: longer values are refused unread.
        invalid_items: items that the catalogue has withdrawn or banned; asked anew each time.
    """

    __slots__ = ("_explicit", "_future_ms", "_invalid_items", "_max_bytes", "_tenant")

    def __init__(self, policy: Policy, *, tenant: str | None, max_bytes: int, invalid_items: Container[str]) -> None:
        self._future_ms = policy.future_ms
        self._explicit = policy.feedback == "explicit"
        self._tenant = tenant
        self._max_bytes = max_bytes
        self._invalid_items = invalid_items

    def read(self, record: Record) -> Interaction | Rejected | Filtered:
        """The event that the steps work on, or the one reason why there is none."""
        value = record.value or b""
        if len(value) > self._max_bytes:
            return _too_large(len(value), self._max_bytes)
        event = decode(value) or explain(record.value, record.headers)
        if isinstance(event, Rejected):
            return event
        ended = validate(event, record, self._future_ms) or filter_event(event, self._tenant, self._invalid_items)
        if ended is None and self._explicit and _unrated(event, record):
            return _NO_RATING
        return ended or event


def _unrated(event: Interaction, record: Record) -> bool:
    """Is it a positive event that rates nothing? It must not take the place of a rating."""
    return event.value == 1.0 and event.event_type in POSITIVES and not says_value(record.value, record.headers)


def _too_large(size: int, max_bytes: int) -> Rejected:
    return Rejected(Reason.TOO_LARGE, (FieldError("$", f"must be at most {max_bytes} bytes, got {size}"),))
