"""Logs: structlog and the standard library through one formatter; text on a terminal, JSON lines elsewhere.

Fields are ts, level, event, logger and what the caller adds. Payloads never appear: bytes are shown as
their number, long texts are cut, and no library of the data path logs below warning.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, Literal, TextIO

import orjson
import structlog
from structlog.typing import Processor

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]

_LONGEST: Final = 500
_MOST_LINES: Final = 1_000

# What these say below the level is of interest to their authors; the engine reports the same in its own
# words.
_QUIET: Final[Mapping[str, int]] = {
    "aiohttp": logging.WARNING,
    "aiokafka": logging.WARNING,
    "asyncio": logging.WARNING,
    "faust": logging.WARNING,
    "kafka": logging.WARNING,
    "mode": logging.WARNING,
    # Services of the framework that log under the name of the module that subclasses them.
    "streamer.engine.transport": logging.WARNING,
    # Logs every change of assignment as an error when a member leaves; `partition_ready` says what counts.
    "aiokafka.consumer.group_coordinator": logging.ERROR,
}

# Retried by the client and expected: Kafka maps "still verifying the transaction" to NOT_ENOUGH_REPLICAS
# for it.
_EXPECTED: Final = (
    ("aiokafka.producer.sender", "NotEnoughReplicas"),
    ("aiokafka.producer.sender", "ConcurrentTrans"),
)


# With a broker gone, a client says the same thousands of times a second: enough to fill a disk.
_OURS: Final = "streamer"
_SAME_SECONDS: Final = 5.0


class Seldom(logging.Filter):
    """Lets each line of a library (its logger and its text before the arguments) through once in five seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock, self._last = clock, dict[tuple[str, str], float]()

    def filter(self, record: logging.LogRecord) -> bool:
        """May this line be written?"""
        if record.name.partition(".")[0] == _OURS:
            return True
        key, now = (record.name, str(record.msg)[:_LONGEST]), self._clock()
        if now - self._last.get(key, -_SAME_SECONDS) < _SAME_SECONDS:
            return False
        if len(self._last) > _MOST_LINES:
            self._last.clear()
        self._last[key] = now
        return True


def setup_logging(level: Level = "info", fmt: Format = "auto", stream: TextIO | None = None) -> None:
    """Send all logs to the stream (None = standard error), replacing what was set up before."""
    out = sys.stderr if stream is None else stream
    console = fmt == "console" or (fmt == "auto" and out.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        without_payloads,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.PositionalArgumentsFormatter(), *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(console=console, colours=console and out.isatty()),
            ],
        )
    )
    handler.addFilter(_unexpected)
    handler.addFilter(Seldom())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, root.level))


def without_payloads(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Structlog processor: bytes become their number, long texts are cut."""
    for key, value in event.items():
        if isinstance(value, bytes | bytearray | memoryview):
            event[key] = f"<{len(value)} bytes>"
        elif isinstance(value, str) and len(value) > _LONGEST:
            event[key] = f"{value[:_LONGEST]}… ({len(value)} characters)"
    return event


def _rendering(*, console: bool, colours: bool) -> list[Processor]:
    if console:
        return [structlog.dev.ConsoleRenderer(colors=colours, timestamp_key="ts")]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_dump)]


def _dump(event: Any, **_: Any) -> str:  # structlog's own signature
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _unexpected(record: logging.LogRecord) -> bool:
    return not any(record.name == name and text in record.getMessage() for name, text in _EXPECTED)
