"""A Kafka broker for the demo, the tests and the tools, whatever the machine has."""

from ops.broker.errors import BrokerUnavailableError
from ops.broker.find import FoundBroker, find_broker
from ops.broker.local import LocalBroker

__all__ = ["BrokerUnavailableError", "FoundBroker", "LocalBroker", "find_broker"]
