"""A task's lease: the time in which its update may be published."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from broker.messages.round import RoundTask
from client_fn.errors import LeaseOver


class Lease:
    """The time until a task's deadline.

    Args:
        task: the task whose deadline counts.
        clock: returns seconds since the epoch.
    """

    def __init__(self, task: RoundTask, clock: Callable[[], float]) -> None:
        self._task = task
        self._clock = clock

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._task.deadline_s - self._clock())

    def check(self) -> None:
        """Raise if no time is left.

        Raises:
            LeaseOver: the deadline has passed.
        """
        if not self.left_s:
            raise LeaseOver(self._task.id, self._task.deadline_s)

    @contextlib.asynccontextmanager
    async def timeout(self) -> AsyncIterator[None]:
        """Cancel the block at the deadline.

        Raises:
            LeaseOver: the deadline passed, before the block or during it.
        """
        self.check()
        try:
            async with asyncio.timeout(self._task.deadline_s - self._clock()) as scope:
                yield
        except TimeoutError as exc:
            if not scope.expired():
                raise
            raise LeaseOver(self._task.id, self._task.deadline_s) from exc
