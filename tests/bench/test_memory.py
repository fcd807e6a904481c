"""Resident memory of a users worker, on a broker of its own so that nobody else's topics count."""

from pathlib import Path

import pytest

from ops.broker import BrokerUnavailableError
from ops.broker.local import LocalBroker
from tests.bench.memory import ALLOWED_MB, measure
from tests.bench.world import World


@pytest.mark.integration
@pytest.mark.slow
def test_memory_stands_still_while_200_000_users_stream_through(tmp_path: Path) -> None:
    """After the first 50,000 users, a further 100,000 cost at most 5 MB; short vectors, since rows are not kept."""
    world = World(users=200_000, items=1_000, dimension=16)
    try:
        broker = LocalBroker(heap="768m").start()
    except BrokerUnavailableError as error:
        pytest.skip(str(error))
    with broker:
        memory = measure(broker.bootstrap_servers, world, tmp_path, tmp_path)
    assert memory.slope <= ALLOWED_MB, memory.line() + "\n" + str(memory.samples)
