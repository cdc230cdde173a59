"""A whole system in one process tree: broker, FL server, bridge, workers. And each part by itself."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

import broker
from bridges import local, platforms
from broker import BrokerUrl
from broker.base import Broker
from broker.support.tasks import task_group
from fedkeeper import bridging, notify, restart
from fedkeeper.bridging import BridgeFile
from fedkeeper.sdk import Client
from fedkeeper.store import opened

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a system on this machine is made with.

    Attributes:
        folder: broker's store, credentials and the clients' shards.
        workers: processes that train.
        data_dir: where the datasets' own files are; None: see `client_fn.data.datasets`.
        platform: name of the local platform.
        device: what the workers train on, as torch names it.
        provision: deal the built-in datasets to clients here, when a job waits for them.
    """

    folder: Path
    workers: int
    data_dir: Path | None = None
    platform: str = "local"
    device: str = "cpu"
    provision: bool = True

    @property
    def shards_at(self) -> str:
        """Where the local clients' shards are staged."""
        return str((self.folder / "shards").resolve())


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


async def run_server(url: str, data_dir: Path | None, ready: asyncio.Event | None = None) -> None:
    """The FL server by itself, until cancelled; `ready` is set when it takes jobs.

    Raises:
        ConnectFailed: no broker is there at the start.
    """
    from fedkeeper.learning import TorchLearning
    from server import service

    is_ready, learning = ready or asyncio.Event(), TorchLearning(data_dir)

    def takes_jobs() -> None:
        address = BrokerUrl.parse(url).address
        log.info("the server takes jobs", broker=address)
        notify.ready(f"the server takes jobs on {address}")
        is_ready.set()

    async def serve() -> None:
        async with broker.connect(url, name="server") as bus:
            await service.serve(bus, learning, on_ready=takes_jobs)

    await restart.kept_up(serve)


async def run_local_bridge(url: str, settings: Settings) -> None:
    """The bridge to the local platform by itself, until cancelled.

    Raises:
        ConnectFailed: no broker is there at the start.
    """
    workers = local.Settings(
        name=settings.platform,
        broker=url,
        workers=settings.workers,
        concurrency=2 * settings.workers,
        device=settings.device,
    )
    file = BridgeFile(url=url, secrets="", platform=workers)
    beside = partial(_provide, settings) if settings.provision else None
    await bridging.run_bridge(platforms.LOCAL, file, url, beside)


async def _provide(settings: Settings, bus: Broker) -> None:
    from fedkeeper.provision import provision

    at, data_dir = settings.shards_at, settings.data_dir
    await provision(Client(bus), platform=settings.platform, shards_at=at, data_dir=data_dir)


@contextlib.asynccontextmanager
async def whole_system(settings: Settings, *, store: Path, port: int = 0) -> AsyncIterator[str]:
    """Broker, server, local bridge and workers until the end; yields the broker's URL.

    Args:
        settings: see there.
        store: the broker's data folder; one that version 0.1 made is put aside.
        port: of the broker on the loopback address; 0: a free one.
    """
    async with opened(store, port=port) as nats, task_group() as group:
        watching = group.create_task(nats.wait(), name="nats-server")
        async with parts(nats.url, settings):
            yield nats.url
        watching.cancel()


@contextlib.asynccontextmanager
async def parts(url: str, settings: Settings) -> AsyncIterator[None]:
    """Server and local bridge on a broker that runs already; entered when the server takes jobs."""
    ready = asyncio.Event()
    async with task_group() as group:
        running = [
            group.create_task(run_server(url, settings.data_dir, ready), name="server"),
            group.create_task(run_local_bridge(url, settings), name="bridge local"),
        ]
        await ready.wait()
        yield
        for part in running:
            part.cancel()


async def for_ever() -> None:
    """Until cancelled."""
    await asyncio.Event().wait()
