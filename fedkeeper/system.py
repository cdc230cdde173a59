"""A whole system in one process tree: broker, FL server, bridge, workers. And each part by itself."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

import broker
from bridges import Invoker, Runner, presence
from bridges.local import pool
from broker import BrokerUrl
from broker.base import Broker
from broker.errors import ConnectFailed, Disconnected
from broker.support.tasks import task_group
from fedkeeper import notify
from fedkeeper.sdk import Fabric
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
    import server
    from fedkeeper.learning import TorchLearning

    is_ready, learning = ready or asyncio.Event(), TorchLearning(data_dir)

    def takes_jobs() -> None:
        address = BrokerUrl.parse(url).address
        log.info("the server takes jobs", broker=address)
        notify.ready(f"the server takes jobs on {address}")
        is_ready.set()

    async def serve() -> None:
        async with broker.connect(url, name="server") as bus:
            await server.serve(bus, learning, on_ready=takes_jobs)

    await kept_up(serve)


async def run_local_bridge(url: str, settings: Settings) -> None:
    """The bridge to the local platform by itself, until cancelled.

    Raises:
        ConnectFailed: no broker is there at the start.
    """
    name, workers = settings.platform, settings.workers

    async def bridge() -> None:
        async with (
            broker.connect(url, name=f"bridge-{name}", will=presence.will(name)) as bus,
            pool.pool(url, workers=workers, name=name, device=settings.device) as platform,
            task_group() as group,
        ):
            if settings.provision:
                group.create_task(_provide(bus, settings), name="provision")
            log.info("the bridge is up", platform=name, workers=workers)
            notify.ready(f"bridge {name} is up on {BrokerUrl.parse(url).address}, {workers} workers")
            await Runner(bus, Invoker(platform)).run()

    await kept_up(bridge)


async def _provide(bus: Broker, settings: Settings) -> None:
    from fedkeeper.provision import provision

    at, data_dir = settings.shards_at, settings.data_dir
    await provision(Fabric(bus), platform=settings.platform, shards_at=at, data_dir=data_dir)


async def kept_up(part: Callable[[], Awaitable[None]], pause_s: float = 1.0) -> None:
    """Run a part for ever: whenever the broker was out of reach for too long, it starts over, as after a crash.

    Args:
        part: connects and works; everything that matters to it is with the broker.
        pause_s: how long to wait before it starts over.

    Raises:
        ConnectFailed: it could not connect the first time.
    """
    worked = False
    while True:
        try:
            await part()
        except Disconnected as exc:
            worked = True
            log.warning("the broker is out of reach; starting over", error=str(exc))
        except ConnectFailed as exc:
            if not worked:
                raise
            log.warning("the broker is still out of reach", error=str(exc))
        notify.status("the broker is out of reach; trying again")
        await asyncio.sleep(pause_s)


@contextlib.asynccontextmanager
async def whole_system(settings: Settings, *, store: Path, port: int = 0) -> AsyncIterator[str]:
    """Broker, server, local bridge and workers until the end; yields the broker's URL.

    Args:
        settings: see there.
        store: the broker's data folder; one that version 0.1 made is put aside.
        port: of the broker on the loopback address; 0: a free one.
    """
    async with opened(store, port=port) as nats, task_group() as group:
        watching = group.create_task(nats.lives(), name="nats-server")
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
