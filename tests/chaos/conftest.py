"""Worlds to break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ops.broker import FoundBroker
from tests.chaos.world import World
from tests.conftest import MakeTopic

MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(broker: FoundBroker, prefix: str, topics: MakeTopic, tmp_path: Path) -> Iterator[MakeWorld]:
    """`make_world(solver="cg", ...)`: a small world below the test's prefix; its processes end with the test."""
    with ExitStack() as stack:

        def make(**options: object) -> World:
            return stack.enter_context(World(broker.bootstrap_servers, prefix, tmp_path, **options))  # type: ignore[arg-type]

        yield make
