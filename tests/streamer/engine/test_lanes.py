"""Threads and turns beside the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial

import pytest

from streamer.engine import lanes
from streamer.engine.lanes import Lane, Turns


async def test_a_lane_does_one_thing_after_another_in_its_own_thread() -> None:
    lane, order = Lane("test"), list[int]()

    def work(number: int) -> str:
        time.sleep(0.002 * (5 - number))
        order.append(number)
        return threading.current_thread().name

    names = await asyncio.gather(*(lane.run(partial(work, number)) for number in range(5)))
    lane.close()
    assert order == list(range(5))
    assert set(names) == {"test_0"}


async def test_who_is_cancelled_waits_for_the_work_to_end() -> None:
    """A store may be closed right after the cancellation: nothing may still be reading it."""
    lane, going, ended = Lane("test"), threading.Event(), threading.Event()

    def work() -> None:
        going.set()
        time.sleep(0.1)
        ended.set()

    task = asyncio.create_task(lane.run(work))
    await asyncio.to_thread(going.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    lane.close()


async def test_no_more_than_so_many_turns_at_once() -> None:
    turns, now, most = Turns(2), 0, 0

    async def batch() -> None:
        nonlocal now, most
        async with turns.turn():
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.001)
            now -= 1

    await asyncio.gather(*(batch() for _ in range(20)))
    assert most == 2


async def test_a_turn_that_hangs_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it gives its place back once, not twice."""
    monkeypatch.setattr(lanes, "_PATIENCE_SECONDS", 0.01)
    turns, stuck = Turns(1), asyncio.Event()

    async def hang() -> None:
        async with turns.turn():
            await stuck.wait()

    hanging = asyncio.create_task(hang())
    await asyncio.sleep(0)
    async with asyncio.timeout(5), turns.turn():
        pass
    stuck.set()
    await hanging
    assert turns._free._value == 1
