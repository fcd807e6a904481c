"""Does the broker answer? Asked every second over a connection of its own, so silence tells without traffic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from aiokafka.client import AIOKafkaClient

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0

Hear = Callable[[float | None], None]
"""Told since when (seconds since 1970) no broker answers; None when one does again."""


async def feel(topic: str, options: Mapping[str, Any], hear: Hear) -> None:
    """For ever: ask for a topic's metadata and tell ``hear`` when the answers end and when they are back."""
    away: float | None = None
    client: AIOKafkaClient | None = None
    try:
        while True:
            asked = time.time()
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    if client is None:
                        client = await _client(topic, options)
                    answered = await client.force_metadata_update()
            except Exception as problem:  # noqa: BLE001 - whatever it is, it is no answer, and asking goes on
                log.debug("no_answer", problem=repr(problem))
                answered = False
            if answered and away is not None:
                log.info("broker_answers_again", seconds=round(time.time() - away, 1))
                away = None
                hear(away)
            elif not answered and away is None:
                away = asked
                log.error("broker_away", servers=options["bootstrap_servers"])
                hear(away)
            await asyncio.sleep(_PAUSE_SECONDS)
    finally:
        if client is not None:
            await client.close()


async def _client(topic: str, options: Mapping[str, Any]) -> AIOKafkaClient:
    client = AIOKafkaClient(**options)
    try:
        await client.bootstrap()
        client.set_topics([topic])
    except BaseException:
        await client.close()
        raise
    return client
