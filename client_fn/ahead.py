"""Bounds what a worker that trains clients together fetches before it can be trained."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

SHARE: Final = 1 / 8
"""Share of a trainer's memory that the inputs of tasks may have before they are trained, except the last one's."""


@dataclass(eq=False)
class Place:
    """A task whose inputs are here, or are being fetched.

    Attributes:
        job: equal for all tasks of a job that are trained alike.
        size: of its own inputs in bytes; None: they are being fetched.
    """

    job: str
    size: int | None = None


class Ahead:
    """The places of tasks from the begin of their preparation to the end of their training.

    Args:
        memory_mb: what a trainer may use, in MiB; 0: not known.
        most_of: returns how many tasks of a job may be trained together. As many more may be prepared.
    """

    def __init__(self, memory_mb: int, most_of: Callable[[str], int]) -> None:
        self._most_bytes = int((memory_mb << 20) * SHARE) or sys.maxsize
        self._most_of = most_of
        self._places: list[Place] = []
        self._changed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def place(self, job: str) -> AsyncIterator[Place]:
        """Wait for a place for a task, and hold it for the block. One task is prepared at a time.

        So a file that tasks share is fetched once.

        Args:
            job: its job.
        """
        while not self._has_room(job):
            self._changed.clear()
            await self._changed.wait()
        place = Place(job)
        self._places.append(place)
        try:
            yield place
        finally:
            self._places.remove(place)
            self._changed.set()

    def fill(self, place: Place, size: int) -> None:
        """Say that a task's inputs are here, so that the next one may be prepared.

        Args:
            place: its place.
            size: of its own inputs in bytes.
        """
        place.size = size
        self._changed.set()

    def _has_room(self, job: str) -> bool:
        sizes = [place.size for place in self._places]
        of_job = sum(place.job == job for place in self._places)
        return None not in sizes and sum(filter(None, sizes)) < self._most_bytes and of_job < 2 * self._most_of(job)
