"""The end of an aiokafka consumer, also while its broker is away."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Stop it and close its connections.

    A consumer cancels its fetches as it stops and awaits them; one that waits for a broker to come back lets that
    cancellation through, half-way, to whoever stops the consumer. They would take it for their own and end silently.
    """
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait([stopping])
    if stopping.cancelled():
        await consumer._client.close()
    else:
        stopping.result()
