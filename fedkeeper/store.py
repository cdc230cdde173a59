"""The embedded broker with its store; a store of version 0.1 is put aside, and an empty one takes its place."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

import broker
from broker.errors import OldStore, ServerFailed
from broker.nats.server import NatsServer

log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def opened(folder: Path, *, port: int = 0) -> AsyncIterator[NatsServer]:
    """A nats-server with our streams, as long as the block lasts.

    Args:
        folder: its data folder.
        port: on the loopback address; 0: a free one.

    Raises:
        ServerFailed: it can't run, or a store of 0.1 can't be put aside.
    """
    async with NatsServer(folder, port=port) as nats:
        try:
            await _provision(nats.url)
        except OldStore:
            await nats.stop()
            aside = await asyncio.to_thread(put_aside, folder)
            log.warning("a store of version 0.1 was put aside, and an empty one made", kept=str(aside))
            await nats.start()
            await _provision(nats.url)
        yield nats


async def _provision(url: str) -> None:
    async with broker.connect(url):
        pass


def put_aside(folder: Path) -> Path:
    """Rename the folder of a store of 0.1 to one beside it that is not there yet, and return its new path.

    Raises:
        ServerFailed: it can't be renamed.
    """
    for number in itertools.count(1):
        aside = folder.with_name(f"{folder.name}-0.1" + (f"-{number}" if number > 1 else ""))
        if not aside.exists():
            break
    try:
        return folder.rename(aside)
    except OSError as exc:
        raise ServerFailed(f"{folder} holds a store of FedKeeper 0.1; can't rename it to {aside}: {exc}") from exc
