"""Follows the broker's retained values, and tells when they change."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from broker.base import Broker, Deleted, Value
from broker.support.tasks import task_group


class Versioned:
    """A view of retained values whose changes can be awaited.

    Attributes:
        version: number of changes so far.
    """

    def __init__(self) -> None:
        self.version = 0
        self._changed = asyncio.Event()

    async def wait_for_change(self, version: int) -> int:
        """Wait until the version differs from `version`, and return the new one."""
        while self.version == version:
            await self._changed.wait()
        return self.version

    def mark_changed(self) -> None:
        """Increase the version and wake everything that waits for a change."""
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()


@contextlib.asynccontextmanager
async def follow(broker: Broker, topic_filter: str, note: Callable[[Value | Deleted], None]) -> AsyncIterator[None]:
    """Pass retained values to a function: all current values before the context starts, then every change.

    Args:
        broker: keeps the values.
        topic_filter: selects them.
        note: receives each value.
    """
    for value in (await broker.snapshot(topic_filter)).values():
        note(value)

    async def note_changes() -> None:
        async with broker.watch(topic_filter) as values:
            async for value in values:
                note(value)

    async with task_group() as group:
        task = group.create_task(note_changes(), name=f"follow {topic_filter}")
        yield
        task.cancel()
