"""What happens to a worker, step by step, up to the oracle's report. Each makes sure that its fault really landed.

``extra`` patches take a defence away: then the very same scenario must end in a report with violations.
"""

from __future__ import annotations

import shutil
import signal
import time

from tests.chaos.processes import WorkerProcess
from tests.chaos.world import START_SECONDS, World
from tests.oracle.report import Report

_STARTS, _MORE = 600, 300
_FATAL = -signal.SIGKILL


def undisturbed(world: World) -> Report:
    """A run without any fault; the only one whose worker can be asked for its own counts of everything."""
    world.send(_STARTS)
    worker = world.start()
    world.wait_caught_up()
    world.send(_MORE)
    world.wait_caught_up()
    world.wait_for(
        lambda: sum(worker.counters().values()) >= len(world.acked), 5, lambda: "the metrics are not complete"
    )
    counters = worker.counters()
    return finish(world, counters=counters)


def killed_at(world: World, point: str, *extra: str) -> Report:
    """A worker with a backlog dies at a fault point (``name:n``); a new one takes up what it left."""
    world.send(_STARTS)
    first = world.start(patches=[point, *extra])
    assert first.wait(START_SECONDS) == _FATAL, world.last_words()
    assert first.landed() == [point.partition(":")[0]]
    assert world.lag() > 0, "the input was exhausted before the fault: the run proves nothing"
    world.send(_MORE)
    world.start(patches=extra)
    world.wait_caught_up()
    return finish(world)


def killed_in_restore(world: World) -> Report:
    """A worker that lost its disk dies while it rebuilds the store; a new one finds half a store."""
    world.send(_STARTS)
    first = world.start()
    world.wait_caught_up()
    assert first.stop() == 0, world.last_words()
    shutil.rmtree(world.store())
    world.send(_MORE)
    second = world.start(patches=["in_restore:3"])
    assert second.wait(START_SECONDS) == _FATAL, world.last_words()
    assert second.landed() == ["in_restore"]
    world.start()
    world.wait_caught_up()
    return finish(world)


def damaged(world: World) -> Report:
    """A worker finds blocks of its store damaged that opening did not read."""
    world.send(_STARTS)
    first = world.start()
    world.wait_caught_up()
    assert first.stop() == 0, world.last_words()
    for file in world.store().rglob("*.sst"):
        data = bytearray(file.read_bytes())
        # The end holds index and footer, which opening reads.
        for at in range(100, len(data) - 4_000, 1_000):
            data[at] ^= 0xFF
        file.write_bytes(data)
    second = world.start()
    world.send(_MORE)
    world.wait_caught_up()
    said = second.log.read_text()
    assert '"reason":"damaged"' in said, said
    assert '"store_rebuilt"' in said
    assert list(world.store().parent.rglob("*damaged*")), "nothing was set aside"
    return finish(world)


def shaken(world: World, mishap: str, *extra: str) -> Report:
    """Something goes wrong around a worker that lives on: a lost reply, a refused batch, a dropped fetch."""
    world.send(_STARTS)
    worker = world.start(patches=[mishap, *extra])
    world.wait_for(lambda: bool(worker.landed()), START_SECONDS, lambda: f"{mishap} never struck")
    world.send(_MORE)
    world.wait_caught_up()
    return finish(world)


def zombie(world: World, *extra: str) -> Report:
    """A worker freezes inside a transaction, another takes over, and the first one wakes up."""
    world.send(_STARTS)
    return _wake_up(world, world.start("a", ["freeze_before_commit:6", *extra]), *extra)


def zombie_in_open(world: World) -> Report:
    """A worker freezes while it opens a partition, when it has read the committed offset and nothing else."""
    world.send(_STARTS)
    first = world.start()
    world.wait_caught_up()
    assert first.stop() == 0, world.last_words()
    world.send(_MORE)
    return _wake_up(world, world.start(patches=["freeze_in_open:2"]))


def _wake_up(world: World, frozen: WorkerProcess, *extra: str) -> Report:
    world.wait_for(frozen.frozen, START_SECONDS, lambda: "the worker did not freeze")
    world.start("b", extra)
    world.wait_caught_up()
    frozen.signal(signal.SIGCONT)
    # It first hears of its fate when it goes on with its commit; meanwhile life goes on.
    for _ in range(10):
        world.send(_MORE // 10)
        time.sleep(0.2)
    world.wait_caught_up()
    return finish(world)


def finish(world: World, counters: dict[tuple[str, str], int] | None = None) -> Report:
    """Stop whoever runs, in good order, and compare."""
    for worker in world.workers:
        # One that was started a moment ago has no handler for SIGTERM yet.
        expected = (0, -signal.SIGTERM) if worker.running else (0, _FATAL, -signal.SIGTERM)
        code = worker.stop() if worker.running else worker.ended_with
        assert code in expected, f"{worker.name} ended with {code}\n{world.last_words()}"
    stores = [world.store(name) for name in sorted({worker.name for worker in world.workers})]
    report = world.audit(stores=stores, counters=counters)
    print(report)
    return report
