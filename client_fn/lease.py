"""The time that a task has."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from broker.messages.round import RoundTask
from client_fn.errors import LeaseOver


class Lease:
    """A task's time until its deadline; it ends early when nobody waits for the task any more.

    Args:
        task: whose deadline it is.
        clock: seconds since the epoch.
    """

    def __init__(self, task: RoundTask, clock: Callable[[], float]) -> None:
        self._task = task
        self._clock = clock
        self._ended = False

    def check(self) -> None:
        """Go on, if there is time left; may be called from another thread.

        Raises:
            LeaseOver: there is none.
        """
        if self._ended or self._clock() >= self._task.deadline_s:
            raise self._over()

    def end(self) -> None:
        """Let the next `check` fail."""
        self._ended = True

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Do something within the lease; cancelled when the deadline comes.

        Raises:
            LeaseOver: it came, or had come before.
        """
        self.check()
        try:
            async with asyncio.timeout(self._task.deadline_s - self._clock()) as scope:
                yield
        except TimeoutError as exc:
            if not scope.expired():
                raise
            raise self._over() from exc

    def _over(self) -> LeaseOver:
        return LeaseOver(self._task.id, self._task.deadline_s)
