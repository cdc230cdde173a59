"""Where a site's trainings begin: counted, and held when a test wants to do something in the middle of a round."""

import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

WITHIN_S: Final = 300.0


class Gate:
    """Use it as `async with gate(path) as gate`.

    Attributes:
        path: where trainings ask; see `tests.support.edge.gated_model`.
        passed: trainings that have begun, the held ones included.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passed = 0
        self._hold_at = 0
        self._open = asyncio.Event()
        self._held = asyncio.Event()

    def hold_after(self, trainings: int) -> None:
        """Let so many more begin, and hold the next ones."""
        self._hold_at = self.passed + trainings
        self._open.clear()
        self._held.clear()

    async def held(self) -> None:
        """Wait until a training is held."""
        async with asyncio.timeout(WITHIN_S):
            await self._held.wait()

    def open(self) -> None:
        """Let everything begin, now and from now on."""
        self._open.set()

    async def _ask(self, _: StreamReader, writer: StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.CancelledError):
            self.passed += 1
            if self.passed > self._hold_at:
                self._held.set()
                await self._open.wait()


@contextlib.asynccontextmanager
async def gate(path: Path) -> AsyncIterator[Gate]:
    """An open gate, until the end of the block."""
    found = Gate(path)
    found.open()
    listener = await asyncio.start_unix_server(found._ask, path)
    try:
        yield found
    finally:
        found.open()
        listener.close()
