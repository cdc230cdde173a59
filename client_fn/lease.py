"""A task's lease: the time in which its update may be published."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from broker.messages.round import RoundTask
from client_fn.errors import LeaseOver


class Lease:
    """The time until a task's deadline, from the arrival of the request on.

    The request says how long that is, so the clock of this machine may be wrong. A request of an older bridge says only
    when it ends.

    Args:
        task: the task whose deadline counts.
        clock: returns seconds since the epoch.
        timer: returns seconds on a clock that never jumps.
    """

    def __init__(
        self, task: RoundTask, clock: Callable[[], float], timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._task = task
        self._now_s = clock if task.lasts_s is None else timer
        self._end_s = task.deadline_s if task.lasts_s is None else timer() + task.lasts_s

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._end_s - self._now_s())

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
            async with asyncio.timeout(self.left_s) as scope:
                yield
        except TimeoutError as exc:
            if not scope.expired():
                raise
            raise LeaseOver(self._task.id, self._task.deadline_s) from exc
