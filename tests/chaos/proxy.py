"""A TCP proxy between one part and the broker, whose connection can be cut, silenced and slowed down."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

_CHUNK: Final = 64 << 10


class Proxy:
    """A proxy to a port of the loopback address. Use it as `async with running(target) as proxy`.

    Attributes:
        port: its own port.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._is_cut = False
        self._bytes_per_s = 0.0
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """End every connection, and every new one at once."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def silence(self) -> None:
        """Keep the connections, and let nothing through."""
        self._flows.clear()

    def slow_down(self, bytes_per_s: float) -> None:
        """Let so many bytes through in each direction of each connection."""
        self._bytes_per_s = bytes_per_s

    def mend(self) -> None:
        """Let everything through."""
        self._is_cut = False
        self._bytes_per_s = 0.0
        self._flows.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join one connection with one to the target."""
        try:
            if self._is_cut:
                return
            with contextlib.suppress(OSError):
                onward = await asyncio.open_connection("127.0.0.1", self._target)
                await self._join((reader, writer), onward)
        finally:
            writer.transport.abort()

    async def _join(
        self,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._writers |= {near[1], far[1]}
        try:
            async with asyncio.TaskGroup() as group:
                ways = [group.create_task(self._pump(near[0], far[1])), group.create_task(self._pump(far[0], near[1]))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        finally:
            far[1].transport.abort()
            self._writers -= {near[1], far[1]}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._flows.wait()
                if self._bytes_per_s:
                    await asyncio.sleep(len(data) / self._bytes_per_s)
                writer.write(data)
                await writer.drain()


@contextlib.asynccontextmanager
async def running(target: int) -> AsyncIterator[Proxy]:
    """Run a proxy until the end of the block.

    Args:
        target: the port that it leads to.
    """
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        # A cut connection's tasks need a moment to end.
        await asyncio.sleep(0)
