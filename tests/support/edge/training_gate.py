"""Counts a site's trainings, and can hold them so that a test can act in the middle of a round."""

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
        path: Unix socket to which `tests.support.edge.gated_model` connects before a training.
        passed: number of trainings that have connected, held ones included.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passed = 0
        self._hold_at = 0
        self._open = asyncio.Event()
        self._held = asyncio.Event()

    def hold_after(self, trainings: int) -> None:
        """Let this number of trainings begin and hold the next ones."""
        self._hold_at = self.passed + trainings
        self._open.clear()
        self._held.clear()

    async def wait_until_held(self) -> None:
        """Wait until a training is held."""
        async with asyncio.timeout(WITHIN_S):
            await self._held.wait()

    def open(self) -> None:
        """Let all trainings begin, now and later."""
        self._open.set()

    async def _ask(self, _: StreamReader, writer: StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.CancelledError):
            self.passed += 1
            if self.passed > self._hold_at:
                self._held.set()
                await self._open.wait()


@contextlib.asynccontextmanager
async def gate(path: Path) -> AsyncIterator[Gate]:
    """Serve a gate until the end of the block; it is open at first."""
    site_gate = Gate(path)
    site_gate.open()
    listener = await asyncio.start_unix_server(site_gate._ask, path)
    try:
        yield site_gate
    finally:
        site_gate.open()
        listener.close()
