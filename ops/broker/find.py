"""Which broker? The one in the environment, else Docker, else a local one: the same order everywhere."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ops.broker.container import container_broker, engine_answers, image
from ops.broker.errors import BrokerUnavailableError
from ops.broker.local import LocalBroker
from ops.broker.ready import answers, is_listening

VARIABLE = "KAFKA_BOOTSTRAP_SERVERS"


@dataclass(frozen=True, slots=True)
class FoundBroker:
    """A broker that answers.

    Attributes:
        bootstrap_servers: Where it is.
        description: One line for people: which one was taken.
        local: The local broker, where it is one: only that may be killed and restarted.
    """

    bootstrap_servers: str
    description: str
    local: LocalBroker | None = None


@contextmanager
def find_broker(say: Callable[[str], None] = lambda _: None) -> Iterator[FoundBroker]:
    """Yield the first broker of the order, stopping at the end what was started here.

    Raises:
        BrokerUnavailableError: None can be had, or the one that was named does not answer.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not (is_listening(named) and answers(named)):
            raise BrokerUnavailableError(f"no Kafka broker answers at {named}, which {VARIABLE} names.")
        yield FoundBroker(named, f"the broker at {named} ({VARIABLE})")
        return
    if engine_answers():
        with _container_or_none(say) as found:
            if found is not None:
                yield found
                return
    with LocalBroker(say=say) as local:
        yield FoundBroker(local.bootstrap_servers, local.description, local)


@contextmanager
def _container_or_none(say: Callable[[str], None]) -> Iterator[FoundBroker | None]:
    """A container, or None when the engine cannot run the image (no network, no disk): then local it is."""
    container = container_broker()
    try:
        address = container.__enter__()
    except BrokerUnavailableError as error:
        say(f"{error} Taking a local broker instead.")
        yield None
        return
    try:
        yield FoundBroker(address, f"{image()} in Docker at {address}")
    finally:
        container.__exit__(None, None, None)
