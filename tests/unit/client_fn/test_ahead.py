"""How many tasks a worker prepares before they can be trained."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from client_fn.ahead import Ahead


class Prepared:
    """Tasks that wait for a place, or have one."""

    def __init__(self, memory_mb: int, **most: int) -> None:
        self.ahead = Ahead(memory_mb, most.__getitem__)
        self.names: list[str] = []
        self.may_end: dict[str, asyncio.Event] = {}
        self.running: list[asyncio.Task[None]] = []

    async def _hold(self, name: str, job: str, size: int | None) -> None:
        async with self.ahead.place(job) as place:
            self.names.append(name)
            if size is not None:
                self.ahead.fill(place, size)
            await self.may_end[name].wait()
        self.names.remove(name)

    async def begin(self, *names: str, size: int | None = 0) -> None:
        """Begin with tasks, whose names begin with their jobs'."""
        for name in names:
            self.may_end[name] = asyncio.Event()
            self.running.append(asyncio.create_task(self._hold(name, name[0], size)))
        await asyncio.sleep(0.01)

    async def end(self, name: str) -> None:
        self.may_end[name].set()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def prepared(memory_mb: int = 0, **most: int) -> AsyncIterator[Prepared]:
    found = Prepared(memory_mb, **most)
    yield found
    for running in found.running:
        running.cancel()
    await asyncio.gather(*found.running, return_exceptions=True)


async def test_of_a_job_that_is_trained_one_by_one_one_task_is_ahead() -> None:
    async with prepared(a=1, b=2) as tasks:
        await tasks.begin("a1", "a2", "a3", "a4", "b1", "b2", "b3", "b4", "b5")
        assert tasks.names == ["a1", "a2", "b1", "b2", "b3", "b4"]
        await tasks.end("a1")
        assert tasks.names == ["a2", "b1", "b2", "b3", "b4", "a3"]


async def test_one_task_is_prepared_at_a_time() -> None:
    async with prepared(a=8) as tasks:
        await tasks.begin("a1", "a2", size=None)
        assert tasks.names == ["a1"]
        await tasks.end("a1")
        assert tasks.names == ["a2"]


async def test_what_lies_ready_has_an_eighth_of_the_memory() -> None:
    async with prepared(memory_mb=80, a=8) as tasks:
        await tasks.begin("a1", "a2", "a3", "a4", size=5 << 20)
        assert tasks.names == ["a1", "a2"]
        await tasks.end("a2")
        assert tasks.names == ["a1", "a3"]


async def test_a_task_that_is_given_up_frees_its_place() -> None:
    async with prepared(a=1) as tasks:
        await tasks.begin("a1", size=None)
        await tasks.begin("a2")
        tasks.running[0].cancel()
        await asyncio.sleep(0.01)
        assert tasks.names == ["a1", "a2"]
