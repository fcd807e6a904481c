"""Hold a decoded event against the record that carried it."""

from schemas.outcomes import Reason
from schemas.records import Interaction
from streamer.events.excerpt import excerpt
from streamer.events.record import Record
from streamer.events.verdicts import FieldError, Rejected


def validate(event: Interaction, record: Record, future_ms: int) -> Rejected | None:
    """Refuse an event under another key than its user's, or later than the broker's clock allows."""
    if record.key != event.user_id.encode():
        return _key_mismatch(event, record.key)
    if event.timestamp > record.timestamp + future_ms:
        return _future(event, record.timestamp, future_ms)
    return None


def _key_mismatch(event: Interaction, key: bytes | None) -> Rejected:
    found = "null" if key is None else excerpt(key.decode(errors="replace"))
    message = f"must be the user id {excerpt(event.user_id)}, got {found}"
    return Rejected(Reason.KEY_MISMATCH, (FieldError("key", message),))


def _future(event: Interaction, broker_ms: int, future_ms: int) -> Rejected:
    message = (
        f"must be at most {future_ms} ms after the broker's {broker_ms}, got {event.timestamp},"
        f" {event.timestamp - broker_ms} ms after"
    )
    return Rejected(Reason.FUTURE, (FieldError("$.timestamp", message),))
