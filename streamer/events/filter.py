"""Keep good events that must have no effect away from the factors."""

from collections.abc import Container

from schemas.outcomes import Reason
from schemas.records import SET_ASIDE, Interaction
from streamer.events.verdicts import Filtered

_NO_CONSENT = Filtered(Reason.NO_CONSENT)
_BOT = Filtered(Reason.BOT)
_INTERNAL = Filtered(Reason.INTERNAL)
_WRONG_TENANT = Filtered(Reason.WRONG_TENANT)
_INVALID_ITEM = Filtered(Reason.INVALID_ITEM)
_SET_ASIDE = Filtered(Reason.SET_ASIDE)


def filter_event(event: Interaction, tenant: str | None, invalid_items: Container[str]) -> Filtered | None:
    """The first reason to leave the event out, or None.

    Args:
        event: a valid event.
        tenant: the only tenant served; None serves all.
        invalid_items: items that the catalogue has withdrawn or banned.
    """
    if event.consent is False:
        return _NO_CONSENT
    if event.traffic == "bot":
        return _BOT
    if event.traffic == "internal":
        return _INTERNAL
    if tenant is not None and event.tenant != tenant:
        return _WRONG_TENANT
    if event.item_id in invalid_items:
        return _INVALID_ITEM
    if event.event_type in SET_ASIDE:
        return _SET_ASIDE
    return None
