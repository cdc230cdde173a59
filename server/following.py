"""Follows the broker's retained values, and tells when they change."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from broker.base import Broker
from broker.deliveries import Deleted, Reader, Value
from broker.support.tasks import task_group


class Versioned:
    """A view of retained values whose changes can be awaited.

    Args:
        clock: seconds on a clock that never jumps.

    Attributes:
        version: number of changes so far.
        changed_s: when the last change was noted, on that clock; minus infinity: there was none.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.version = 0
        self.changed_s = float("-inf")
        self._clock = clock
        self._changed = asyncio.Event()
        self._values: Reader[Value | Deleted] | None = None

    async def catch_up(self) -> None:
        """Return when the view holds everything that the broker held at the time of the call."""
        if self._values is not None:
            await self._values.catch_up()

    def note(self, value: Value | Deleted) -> None:
        """Apply a retained value or its deletion; subclasses override this."""

    async def wait_for_change(self, version: int) -> int:
        """Wait until the version differs from `version`, and return the new one."""
        while self.version == version:
            await self._changed.wait()
        return self.version

    def mark_changed(self) -> None:
        """Increase the version and wake everything that waits for a change."""
        self.version += 1
        self.changed_s = self._clock()
        self._changed.set()
        self._changed = asyncio.Event()


@contextlib.asynccontextmanager
async def follow(broker: Broker, topic_filter: str, view: Versioned) -> AsyncIterator[None]:
    """Keep a view up to date: it has all current values before the context starts, then it gets every change.

    Args:
        broker: keeps the values.
        topic_filter: selects them.
        view: takes each value.
    """
    for value in (await broker.snapshot(topic_filter)).values():
        view.note(value)

    async def note_changes(values: Reader[Value | Deleted]) -> None:
        async for value in values:
            view.note(value)

    async with broker.watch(topic_filter) as values, task_group() as group:
        view._values = values
        task = group.create_task(note_changes(values), name=f"follow {topic_filter}")
        yield
        task.cancel()
