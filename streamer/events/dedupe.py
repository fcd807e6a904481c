"""Judge whether a request was seen before, by the idempotency keys that the user's row keeps."""

from collections.abc import Iterable

from schemas.outcomes import Outcome


def judge_request(
    request: int,
    fingerprint: int,
    *,
    keys: Iterable[int],
    fingerprints: Iterable[int],
    times: Iterable[int],
    live_from: int,
) -> Outcome | None:
    """``DUPLICATE`` if a live key is this request with this payload, ``CONFLICT`` if with another, else None.

    Args:
        request: `request_hash` of the event, never 0: a slot of 0 is empty.
        fingerprint: `fingerprint` of the event.
        keys: the row's request hashes, one a slot.
        fingerprints: the payload fingerprint of each slot.
        times: the event time of each slot, in any unit.
        live_from: in the unit of ``times``; an older key has expired.
    """
    verdict = None
    for key, seen, time in zip(keys, fingerprints, times, strict=True):
        if key == request and time >= live_from:
            if seen == fingerprint:
                return Outcome.DUPLICATE
            verdict = Outcome.CONFLICT
    return verdict
