"""Worlds to break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ops.broker import FoundBroker
from tests.chaos.forge import Forge
from tests.chaos.processes import CHECKOUT
from tests.chaos.world import World
from tests.conftest import MakeTopic

MakeWorld = Callable[..., World]


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    """The process that forks workers for the tests of this session."""
    with Forge(CHECKOUT) as forge:
        yield forge


@pytest.fixture
def make_world(
    broker: FoundBroker, prefix: str, topics: MakeTopic, tmp_path: Path, forge: Forge
) -> Iterator[MakeWorld]:
    """`make_world(solver="cg", ...)`: a small world below the test's prefix; its processes end with the test."""
    with ExitStack() as stack:

        def make(*, forged: bool = True, **options: object) -> World:
            world = World(
                broker.bootstrap_servers,
                prefix,
                tmp_path,
                forge=forge if forged else None,
                **options,  # type: ignore[arg-type]  # the options of `World`
            )
            return stack.enter_context(world)

        yield make
