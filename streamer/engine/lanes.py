"""Threads beside the event loop: one for the stores, one for everything that reads or moves the item vectors.

Reading rows and solving release the interpreter for most of their time. In threads of their own they run beside the
event loop, which meanwhile decodes, sends and waits for the broker:

    loop    read -> . . . -> . . . . -> commit -> . . . .
    store           get                           write
    maths                    apply

One thread each: the item vectors and the kernel's memory are shared by all partitions, and more threads than cores only
take turns. A lock would queue the same work less visibly.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

Result = TypeVar("Result")

_SWITCH_SECONDS = 0.001
_PATIENCE_SECONDS = 0.5


class Lane:
    """One thread. `run` from the event loop, `close` at the end."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, name)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do it, after whatever was asked for before.

        A caller that is cancelled still waits for the end: what the work uses (a store) may be closed right after.
        """
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def close(self) -> None:
        """End the thread when its work is done."""
        self._executor.shutdown()


class Turns:
    """How many batches of a worker are in the works at once.

    Partitions that all work at once share the processor, and each takes as long as all of them together; taking turns,
    most end sooner, and those that wait gather larger batches. A turn that takes longer than `_PATIENCE_SECONDS`
    (a coordinator that does not answer) no longer counts: it must not hold up the other partitions.
    """

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn; it ends with the block."""
        await self._free.acquire()
        held = True

        def release() -> None:
            nonlocal held
            if held:
                held = False
                self._free.release()

        timer = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, release)
        try:
            yield
        finally:
            timer.cancel()
            release()


class Lanes:
    """The threads of a worker, and the turns at them."""

    def __init__(self, turns: int) -> None:
        self.store, self.maths, self.turns = Lane("store"), Lane("maths"), Turns(turns)
        # How long the loop waits for the interpreter while a thread computes in Python; 5 ms by default.
        sys.setswitchinterval(_SWITCH_SECONDS)

    def close(self) -> None:
        """End them."""
        self.store.close()
        self.maths.close()
