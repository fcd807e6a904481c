"""Wishes for a new generation, sent to the control topic by a producer of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
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
    """One record; wishes are rare, so the producer lives no longer than that."""
    key, value = retrain_request(wish)
    producer = AIOKafkaProducer(enable_idempotence=True, **options)
    try:
        async with asyncio.timeout(_SECONDS), producer:
            await producer.send_and_wait(topic, value, key=key)
    except (KafkaError, TimeoutError) as problem:
        log.warning("retrain_not_asked_for", feature=wish.feature, problem=str(problem) or repr(problem))
    else:
        log.info("retrain_asked_for", feature=wish.feature, model_version=wish.model_version)
