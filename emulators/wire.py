"""A TCP link that a test can cut, mend and weigh."""

import asyncio
import contextlib
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

_PIECE = 1 << 16


@dataclass
class Wire:
    """Stands in front of a server on this machine.

    Attributes:
        target: the server's port.
        port: where to connect instead.
        down: bytes that the server sent.
        up: bytes that were sent to it.
        bytes_per_s: how fast it is, in each direction; 0: as fast as can be.
    """

    target: int
    port: int = 0
    down: int = 0
    up: int = 0
    bytes_per_s: int = 0
    _open: set[StreamWriter] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def mend(self) -> None:
        """Let connections through; the port stays the same."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A link holds little: what is under way waits with who sent it.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE)
        listening.bind(("127.0.0.1", self.port))
        self._server = await asyncio.start_server(self._through, sock=listening)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """End every connection without a goodbye, and refuse others."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        if self._server is not None:
            await self._server.wait_closed()

    async def _through(self, reader: StreamReader, writer: StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        self._open |= {writer, back}
        try:
            with contextlib.suppress(OSError):
                await asyncio.gather(self._up(reader, back), self._down(there, writer))
        finally:
            self._open -= {writer, back}
            for end in (writer, back):
                end.transport.abort()

    async def _up(self, reader: StreamReader, writer: StreamWriter) -> None:
        while piece := await reader.read(_PIECE):
            self.up += len(piece)
            await self._pass(piece, writer)
        raise ConnectionResetError

    async def _down(self, reader: StreamReader, writer: StreamWriter) -> None:
        while piece := await reader.read(_PIECE):
            self.down += len(piece)
            await self._pass(piece, writer)
        raise ConnectionResetError

    async def _pass(self, piece: bytes, writer: StreamWriter) -> None:
        if self.bytes_per_s:
            await asyncio.sleep(len(piece) / self.bytes_per_s)
        writer.write(piece)
        await writer.drain()


@contextlib.asynccontextmanager
async def wire_to(port: int) -> AsyncIterator[Wire]:
    """A link to a port of this machine, until the end of the block."""
    wire = Wire(port)
    await wire.mend()
    try:
        yield wire
    finally:
        await wire.cut()
