"""Keeps something up to date with the broker's retained values."""

import contextlib
from collections.abc import AsyncIterator, Callable

from broker.base import Broker, Deleted, Value
from broker.support.tasks import task_group


@contextlib.asynccontextmanager
async def following(broker: Broker, topic_filter: str, note: Callable[[Value | Deleted], None]) -> AsyncIterator[None]:
    """Have every value under a filter noted: as they are when the block is entered, and then whenever one changes."""
    for value in (await broker.snapshot(topic_filter)).values():
        note(value)

    async def follow() -> None:
        async with broker.watch(topic_filter) as values:
            async for value in values:
                note(value)

    async with task_group() as group:
        task = group.create_task(follow(), name=f"follow {topic_filter}")
        yield
        task.cancel()
