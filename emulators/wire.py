"""A TCP link that a test can cut, restore and measure."""

import asyncio
import contextlib
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

_PIECE = 1 << 16


@dataclass
class Wire:
    """A proxy in front of a server on this machine.

    Attributes:
        target: port of the server.
        port: port of the proxy.
        down: number of bytes from the server.
        up: number of bytes to the server.
        bytes_per_s: speed limit of each direction, in bytes per second; 0 for no limit.
    """

    target: int
    port: int = 0
    down: int = 0
    up: int = 0
    bytes_per_s: int = 0
    _open: set[StreamWriter] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def mend(self) -> None:
        """Accept connections, on the same port as before."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Small buffers: bytes that are not delivered yet stay with the sender, as on a real link.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE)
        listening.bind(("127.0.0.1", self.port))
        self._server = await asyncio.start_server(self._connect, sock=listening)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Abort every connection, and refuse new ones."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        if self._server is not None:
            await self._server.wait_closed()

    async def _connect(self, reader: StreamReader, writer: StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target)
        writers = (writer, server_writer)
        self._open.update(writers)
        try:
            with contextlib.suppress(OSError):
                await asyncio.gather(self._copy(reader, server_writer, "up"), self._copy(server_reader, writer, "down"))
        finally:
            self._open.difference_update(writers)
            for end in writers:
                end.transport.abort()

    async def _copy(self, reader: StreamReader, writer: StreamWriter, direction: Literal["up", "down"]) -> None:
        while piece := await reader.read(_PIECE):
            if direction == "up":
                self.up += len(piece)
            else:
                self.down += len(piece)
            if self.bytes_per_s:
                await asyncio.sleep(len(piece) / self.bytes_per_s)
            writer.write(piece)
            await writer.drain()
        raise ConnectionResetError  # ends the other direction too


@contextlib.asynccontextmanager
async def wire_to(port: int) -> AsyncIterator[Wire]:
    """Yield a link to a port of this machine, until the end of the block."""
    wire = Wire(port)
    await wire.mend()
    try:
        yield wire
    finally:
        await wire.cut()
