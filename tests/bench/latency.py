"""From event to vector at a steady offered load: a sender, the worker and a consumer, each its own process.

The time of sending is the event's own timestamp, taken when it is handed to the producer; a published vector carries
the newest event's as ``event_time``. The consumer reads committed records only. The clock has milliseconds and rounds
the sending down, so figures err on the long side by half of one.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.bench.cluster import PREFIX, ROOT, environment
from tests.bench.lines import Contender, leashed, stop
from tests.bench.world import World

_SETTLE_SECONDS = 2.0
"""The first seconds of a load are left out: the worker comes from an idle state."""
_REST_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Latency:
    """rate: offered, events a second; sent: what the sender reached; milliseconds from sending to arrival.

    sustained: the sender kept its pace, every event was committed within a second of the last one sent, and vectors
    did not come later and later.
    """

    rate: float
    sent: float
    vectors: int
    p50: float
    p99: float
    worst: float
    sustained: bool
    cpu: float

    def line(self) -> str:
        """For people."""
        return (
            f"{self.rate:9,.0f} events/s (sent {self.sent:,.0f}): p50 {self.p50:5.1f} ms   p99 {self.p99:5.1f} ms   "
            f"longest {self.worst:5.1f} ms   {self.vectors:,} vectors   worker's CPU {self.cpu:.0%}   "
            f"{'sustained' if self.sustained else 'NOT SUSTAINED'}"
        )


def measure(
    contender: Contender, servers: str, world: World, rate: float, seconds: float, round_: int, scratch: Path
) -> Latency:
    """Offer ``rate`` events a second for ``seconds`` to a worker that has nothing else to do."""
    out = scratch / f"arrived-{round_}.npy"
    watcher = _python(servers, "arrive", servers, f"{PREFIX}user-factors", str(out))
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == b"ready\n", "the measuring consumer did not start"
    spent, started = contender.cpu(), time.monotonic()
    try:
        sizes = {name: value for name, value in asdict(world).items() if name != "now"}
        sender = _python(
            servers,
            "offer",
            servers,
            PREFIX + contender.line.topic,
            str(rate),
            str(seconds),
            str(round_),
            json.dumps(sizes),
        )
        said: dict[str, Any] = json.loads(sender.communicate()[0])
        cpu = (contender.cpu() - spent) / (time.monotonic() - started)
        contender.at += said["sent"]
        left = time.monotonic()
        contender.catch_up(_REST_SECONDS)
        rest = time.monotonic() - left
        time.sleep(0.5)
    finally:
        watcher.send_signal(signal.SIGTERM)
        watcher.wait(30)
        stop(watcher)
    arrived: npt.NDArray[np.float64] = np.load(out)
    at = arrived[:, 0] - arrived[:, 0].min(initial=np.inf)
    kept = arrived[at >= 1e3 * _SETTLE_SECONDS]
    took = kept[:, 1] - kept[:, 0]
    p50, p99 = np.percentile(took, [50, 99])
    quarters = [float(np.median(part)) for part in np.array_split(took, 4)]
    sent = said["sent"] / said["seconds"]
    sustained = sent > 0.98 * rate and rest < 1.0 and quarters[-1] < 2 * quarters[0] + 20
    return Latency(rate, sent, len(took), float(p50), float(p99), float(took.max()), sustained, cpu)


def _python(servers: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = leashed(["-m", f"tests.bench.{module}", *arguments])
    return subprocess.Popen(command, cwd=ROOT, env=environment(servers), stdout=subprocess.PIPE)
