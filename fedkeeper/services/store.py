"""Runs the embedded broker on a data folder. Moves a store of version 0.1 aside and starts with an empty one."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import broker
from broker.errors import OldStore, ServerFailed
from broker.nats.server import NatsServer
from broker.support import loggers

log = loggers.get_logger(__name__)


@contextlib.asynccontextmanager
async def open_store(folder: Path, *, port: int = 0) -> AsyncIterator[NatsServer]:
    """Run a nats-server with our streams until the end of the block.

    Args:
        folder: the server's data folder.
        port: its port on the loopback address; 0: its last one, or a free one.

    Raises:
        ServerFailed: the server can't run, or a store of version 0.1 can't be moved aside.
    """
    async with NatsServer(folder, port=port) as nats:
        try:
            await _create_streams(nats.url)
        except OldStore:
            await nats.stop()
            moved = await asyncio.to_thread(move_aside, folder)
            log.warning("a store of version 0.1 was put aside, and an empty one made", kept=str(moved))
            await nats.start()
            await _create_streams(nats.url)
        yield nats


async def _create_streams(url: str) -> None:
    # Connecting creates them.
    async with broker.connect(url):
        pass


def move_aside(folder: Path) -> Path:
    """Rename the data folder of a store of version 0.1 to a new name beside it, and return the new path.

    Raises:
        ServerFailed: the folder can't be renamed.
    """
    for number in itertools.count(1):
        target = folder.with_name(f"{folder.name}-0.1" + (f"-{number}" if number > 1 else ""))
        if not target.exists():
            break
    try:
        return folder.rename(target)
    except OSError as exc:
        raise ServerFailed(f"{folder} holds a store of FedKeeper 0.1; can't rename it to {target}: {exc}") from exc
