"""Runs the parts of a system: broker, FL server, local bridge and workers, together or one by one."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import broker
from bridges import local, platforms
from broker import BrokerUrl
from broker.base import Broker
from broker.errors import StoreChanged
from broker.support import loggers
from broker.support.tasks import task_group
from client_fn.site import Site
from client_fn.trainer.fork_server import open_fork_server
from fedkeeper.sdk import Client
from fedkeeper.services import bridging, notify, restart, site_settings
from fedkeeper.services.bridging import BridgeFile
from fedkeeper.services.store import open_store
from server.renewal import renew_open_rounds
from server.retention import Retention

log = loggers.get_logger(__name__)

START_S: Final = 360.0
"""How long a local bridge may take to start: its workers import torch and try the device. Seconds."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a system on this machine.

    Attributes:
        folder: the broker's store, credentials and the clients' shards.
        workers: number of worker processes.
        data_dir: folder of the datasets' files; None: the default of `client_fn.data.datasets`.
        platform: the local platform's name.
        site: what jobs may do on this machine. Server and workers get the same.
        provision: register clients for the built-in datasets when a job waits for them.
        keep: which finished jobs the server keeps.
    """

    folder: Path
    workers: int
    data_dir: Path | None = None
    platform: str = "local"
    site: Site = field(default_factory=Site)
    provision: bool = True
    keep: Retention = field(default_factory=Retention)

    @property
    def shards_at(self) -> str:
        """The folder of the local clients' shards."""
        return str((self.folder / "shards").resolve())


def workers_for(site: Site) -> int:
    """Return how many workers are right: one per core, or one that trains several clients at once on a GPU.

    Args:
        site: the site's settings.
    """
    return 1 if site.most_together > 1 and site.device not in {"", "cpu"} else cores()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.asynccontextmanager
async def whole_system(settings: Settings, *, store: Path, port: int = 0) -> AsyncIterator[str]:
    """Run a broker, the server, the local bridge and its workers until the end of the block; yield the broker's URL.

    The time in which the system was off does not count: an open round has its whole time again.

    Args:
        settings: the system's settings.
        store: the broker's data folder. A store of version 0.1 is moved aside.
        port: the broker's port on the loopback address; 0: its last one, or a free one.

    Raises:
        ServerFailed: the broker can't run, or a store of version 0.1 can't be moved aside.
    """
    was_off = _is_used(store)
    async with _with_fork_server(settings) as whole, open_store(store, port=port) as nats, task_group() as group:
        if was_off:
            async with broker.connect(nats.url, name="renewal") as bus:
                await renew_open_rounds(bus, time.time)
        watching = group.create_task(nats.wait(), name="nats-server")
        async with services(nats.url, whole):
            yield nats.url
        watching.cancel()


def _is_used(store: Path) -> bool:
    return store.is_dir() and any(store.iterdir())


@contextlib.asynccontextmanager
async def services(url: str, settings: Settings) -> AsyncIterator[None]:
    """Run the server and the local bridge until the end of the block, which starts when both are up.

    Args:
        url: the address of a running broker.
        settings: the system's settings.

    Raises:
        ConnectFailed: the first attempt to connect to the broker failed.
        PlatformFailed: no worker can start.
    """
    ready, is_up = asyncio.Event(), asyncio.Event()
    async with _with_fork_server(settings) as whole, task_group() as group:
        tasks = [
            group.create_task(run_server(url, whole.site, whole.data_dir, ready, whole.keep), name="server"),
            group.create_task(run_local_bridge(url, whole, is_up.set), name="bridge local"),
        ]
        await ready.wait()
        await is_up.wait()
        yield
        for task in tasks:
            task.cancel()


async def run_server(
    url: str,
    site: Site,
    data_dir: Path | None = None,
    ready: asyncio.Event | None = None,
    keep: Retention | None = None,
) -> None:
    """Run the FL server as a service until cancelled; it reconnects when the broker was out of reach.

    Args:
        url: the broker's address.
        site: which models the server may build and evaluate, and how.
        data_dir: folder of the datasets' files; None: the default of `client_fn.data.datasets`.
        ready: set when the server takes jobs; None: nobody waits for that.
        keep: which finished jobs are kept; None: the default.

    Raises:
        ConnectFailed: the first attempt to connect to the broker failed.
    """
    from fedkeeper.services.learning import open_learning
    from server import service
    from server.held import Held

    held = Held()

    def report_ready() -> None:
        address = BrokerUrl.parse(url).address
        log.info("the server takes jobs", broker=address)
        notify.ready(f"the server takes jobs on {address}")
        if ready is not None:
            ready.set()

    async def serve() -> None:
        try:
            async with open_learning(site, data_dir) as learning, broker.connect(url, name="server") as bus:
                await service.serve(bus, learning, keep=keep or Retention(), held=held, on_ready=report_ready)
        except StoreChanged as exc:
            held.store_changed(exc.kind)
            raise

    await restart.run_with_restarts(serve)


async def run_local_bridge(url: str, settings: Settings, on_up: Callable[[], None] = lambda: None) -> None:
    """Run the bridge to the local platform as a service until cancelled.

    Args:
        url: the broker's address.
        settings: the system's settings.
        on_up: called when the bridge has announced itself; again when it has started over.

    Raises:
        ConnectFailed: the first attempt to connect to the broker failed.
        PlatformFailed: no worker can start.
        BadOption: the folder can't be written.
    """
    notify.starts_within(START_S)
    if settings.workers == 1 and settings.site.fork_server is None:
        # For one trainer, a fork server would only be a second process.
        await _run_local_bridge(url, settings, on_up)
        return
    async with _with_fork_server(settings) as whole:
        await _run_local_bridge(url, whole, on_up)


async def _run_local_bridge(url: str, settings: Settings, on_up: Callable[[], None]) -> None:
    platform = local.Settings(
        name=settings.platform,
        broker=url,
        workers=settings.workers,
        concurrency=(settings.site.most_together + 1) * settings.workers,
        together=settings.site.most_together,
        device=settings.site.device,
        env=site_settings.worker_environment(settings.site, settings.folder),
    )

    async def provision_clients(bus: Broker) -> None:
        from fedkeeper.services.provision import provision

        at, data_dir = settings.shards_at, settings.data_dir
        await provision(Client(bus), platform=settings.platform, shards_at=at, data_dir=data_dir)

    file = BridgeFile(url=url, secrets="", platform=platform)
    side_task = provision_clients if settings.provision else None
    await bridging.run_bridge(platforms.LOCAL, file, url, side_task, on_up)


@contextlib.asynccontextmanager
async def _with_fork_server(settings: Settings) -> AsyncIterator[Settings]:
    """Keep a fork server running during the block, and yield the settings with it, unless they have one."""
    if settings.site.fork_server is not None:
        yield settings
        return
    async with open_fork_server(settings.site, os.environ) as socket:
        yield replace(settings, site=replace(settings.site, fork_server=socket))
