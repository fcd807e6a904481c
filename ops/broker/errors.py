"""The one way in which a broker can be missing."""


class BrokerUnavailableError(Exception):
    """No broker can be had; the message is one sentence that says why and what to do."""
