"""Free ports for programs that can't choose one themselves, and the wait until such a program listens."""

import asyncio
import contextlib
import random
import socket
from typing import Final

PORTS: Final = range(10_000, 32_000)
"""Below Linux's ephemeral ports (from 32768), so that no outgoing connection and no other server takes a port of these
before the program listens, or while a test restarts it."""


def free_port() -> int:
    """Return a free port of the loopback address."""
    while True:
        port = random.SystemRandom().choice(PORTS)  # two tests side by side must not choose the same
        with socket.socket() as probe:
            # As servers do: a port whose last connections have just ended is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


async def listens(port: int) -> None:
    """Return once a program listens on a port of the loopback address, within two minutes."""
    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)
