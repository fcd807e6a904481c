"""What a worker itself puts into the control topic: wishes for a new generation, and verdicts on one that is tried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas.commands import retrain_request
from schemas.records import Retrain

log = structlog.get_logger(__name__)

_WAITING = 16
_SECONDS = 30.0


@asynccontextmanager
async def asking(topic: str, options: Mapping[str, Any]) -> AsyncIterator[Callable[[Retrain], None]]:
    """Yield a function for any thread that has a wish sent; what cannot be sent is logged, and wished again later."""
    loop = asyncio.get_running_loop()
    wishes: asyncio.Queue[Retrain] = asyncio.Queue(_WAITING)

    def put(wish: Retrain) -> None:
        if not wishes.full():
            wishes.put_nowait(wish)

    def ask(wish: Retrain) -> None:
        loop.call_soon_threadsafe(put, wish)

    async def send() -> None:
        while True:
            await _send(topic, await wishes.get(), options)

    task = asyncio.create_task(send(), name="retrain-requests")
    try:
        yield ask
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _send(topic: str, wish: Retrain, options: Mapping[str, Any]) -> None:
    try:
        await send_commands(topic, [retrain_request(wish)], options)
    except (KafkaError, TimeoutError) as problem:
        log.warning("retrain_not_asked_for", feature=wish.feature, problem=str(problem) or repr(problem))
    else:
        log.info("retrain_asked_for", feature=wish.feature, model_version=wish.model_version)


async def send_commands(topic: str, records: Sequence[tuple[bytes, bytes | None]], options: Mapping[str, Any]) -> None:
    """Send records one after the other; they are rare, so the producer lives no longer than that.

    Raises:
        KafkaError, TimeoutError: not all of them were taken.
    """
    producer = AIOKafkaProducer(enable_idempotence=True, **options)
    async with asyncio.timeout(_SECONDS), producer:
        for key, value in records:
            await producer.send_and_wait(topic, value, key=key)
