"""Progress of a job, for tests."""

import asyncio
from typing import Any

from broker.messages.progress import Progress
from fedkeeper.sdk import Client

WITHIN_S = 120.0


async def watch_to_end(sdk: Client, job: str) -> list[Progress]:
    """Return all progress messages of a job, from its start to its end."""
    async with asyncio.timeout(WITHIN_S):
        return [message async for message in sdk.watch(job)]


def events_of(messages: list[Progress], kind: type[Any]) -> list[Any]:
    """Return the events of one kind, in their order."""
    return [message.event for message in messages if isinstance(message.event, kind)]


async def digest(sdk: Client, job: str) -> str:
    """Return the SHA-256 of a job's current model."""
    record = await sdk.job(job)
    assert record.model is not None
    return record.model.sha256
