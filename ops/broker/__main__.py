"""`python -m ops.broker`: a Kafka broker in the foreground, until Ctrl-C."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Annotated

import typer

from ops.broker.errors import BrokerUnavailableError
from ops.broker.local import LocalBroker

EXIT_BROKER = 3

_LOOK_EVERY_S = 0.5


def main(
    heap: Annotated[str, typer.Option(help="Largest Java heap, as in -Xmx.")] = "384m",
    *,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Where it listens; 0 takes a free one.")] = 0,
    full_jit: Annotated[bool, typer.Option(help="Compile hot code fully (benchmarks).")] = False,
    config: Annotated[list[str] | None, typer.Option(help="A broker setting, KEY=VALUE; repeatable.")] = None,
) -> None:
    """Run a local Apache Kafka; its address is the first line on standard output."""
    overrides = dict(_setting(text) for text in config or [])
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, _interrupt)
    parent = os.getppid()
    try:
        with LocalBroker(config=overrides, heap=heap, full_jit=full_jit, port=port, say=_say) as broker:
            signal.signal(signal.SIGTERM, stop)
            signal.signal(signal.SIGINT, stop)
            print(broker.bootstrap_servers, flush=True)
            _say(f"{broker.description}; Ctrl-C stops it and deletes its data")
            # A broker whose starter is gone serves nobody.
            while not stopped.wait(_LOOK_EVERY_S) and os.getppid() == parent:
                if broker.pid is None:
                    raise BrokerUnavailableError("the broker ended by itself.")
    except BrokerUnavailableError as error:
        _say(str(error))
        raise typer.Exit(EXIT_BROKER) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """While starting, SIGTERM unwinds like Ctrl-C, so that nothing half-started is left."""
    raise KeyboardInterrupt


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE")
    return key.strip(), value.strip()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(main)
