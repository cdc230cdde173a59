"""Bytes per round over the link to a site of 10 devices: all devices on the backbone, or all behind a relay.

The devices do not train. Everything else is real: nats-server at both ends, FL server, the function and the paper's
two-layer network (397,510 parameters). An untrained model does not change, so each round is a separate job with another
seed. Each device is an instance of the function with its own connection; all have one trainer. A proxy in front of the
backbone counts the bytes of the TCP streams.

    python -m benchmarks.relay_bytes [--clients 10] [--rounds 5]
"""

import argparse
import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any, Final

import broker
from bridges import Activation, Invoker, Runner
from bridges.relay import Relay, Settings
from broker.base import Broker
from broker.messages.job import Job
from broker.messages.job_file import from_dict
from broker.messages.progress import RoundCompleted
from broker.messages.register import ClientRecord
from broker.messages.round import RoundTask
from broker.nats.server import NatsServer
from broker.support import heap, logs
from broker.support.tasks import task_group
from client_fn.data.shard_cache import ShardCache
from client_fn.function import WarmState, handle
from client_fn.site import Site
from client_fn.trainer.trainers import Trainers, open_trainers
from emulators.wire import Wire, wire_to
from fedkeeper.sdk import Client
from fedkeeper.services.learning import open_learning
from server import service

PLATFORM: Final = "edge-a"
MB: Final = 1e6
SITE: Final = Site()


class Devices:
    """A platform whose clients are instances of the function, each with its own connection."""

    name = PLATFORM

    def __init__(self, connections: dict[str, Broker], trainers: Trainers) -> None:
        self.concurrency = len(connections)
        self._connections = connections
        self._warm = {client: WarmState(trainers, SITE, ShardCache(SITE)) for client in connections}

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """Implements `Platform.invoke`."""
        client = task.client_id
        yield Activation(client, "running")
        await handle(task, self._connections[client], self._warm[client], attempt=attempt)
        yield Activation(client, "succeeded")


def device_ids(clients: int) -> list[str]:
    """Return the devices' client ids."""
    return [f"device-{i:03d}" for i in range(clients)]


def job(clients: int, seed: int) -> Job:
    """Return a job of one round without training.

    Args:
        clients: number of clients.
        seed: makes another initial model.
    """
    fields: dict[str, Any] = {
        "name": "relayed",
        "seed": seed,
        "model": {"type": "nn"},
        "training": {"dry": True},
        "data": {"dataset": "nothing", "clients": clients},
        "cohort": {"clients": clients, "deadline_s": 600.0},
        "evaluation": {"every": 0},
        "stop": {"rounds": 1},
    }
    return from_dict(fields)


@contextlib.asynccontextmanager
async def devices_on(url: str, clients: int) -> AsyncIterator[None]:
    """Run a bridge and its devices until the end of the block.

    Args:
        url: the broker that they connect to.
        clients: number of devices.
    """
    async with contextlib.AsyncExitStack() as stack:
        connections = {
            name: await stack.enter_async_context(broker.connect(url, name=name)) for name in device_ids(clients)
        }
        bus = await stack.enter_async_context(broker.connect(url, name="bridge"))
        devices = Devices(connections, await stack.enter_async_context(open_trainers(SITE)))
        group = await stack.enter_async_context(task_group())
        running = group.create_task(Runner(bus, Invoker(devices)).run(), name="bridge")
        yield
        running.cancel()


@contextlib.asynccontextmanager
async def relay_between(backbone_url: str, site: NatsServer) -> AsyncIterator[None]:
    """Run a relay until the end of the block.

    Args:
        backbone_url: address of the backbone, as the site reaches it.
        site: the site's broker.
    """
    settings = Settings(name="site-a", platforms=(PLATFORM,), backbone=backbone_url, site=site.url)
    async with (
        broker.connect(backbone_url, name="relay") as backbone,
        broker.connect(site.url, name="relay") as bus,
        task_group() as group,
    ):
        running = group.create_task(Relay(settings, backbone, bus).run(), name="relay")
        yield
        running.cancel()


async def measure(hub: NatsServer, wire: Wire, clients: int, rounds: int) -> list[tuple[int, int]]:
    """Return the bytes down and up over the link, for each round but the first.

    Args:
        hub: the backbone's broker.
        wire: the counting proxy.
        clients: number of devices.
        rounds: number of measured rounds.
    """
    marks = []
    async with (
        broker.connect(hub.url, name="server") as bus,
        open_learning(SITE, None) as learning,
        task_group() as group,
    ):
        serving = group.create_task(service.serve(bus, learning), name="server")
        sdk = Client(bus)
        await sdk.register(
            [ClientRecord(id=name, platform=PLATFORM, labels={"data": "nothing"}) for name in device_ids(clients)]
        )
        for seed in range(rounds + 1):
            job_id = await sdk.submit(job(clients, seed), timeout_s=60)
            events = [progress.event async for progress in sdk.watch(job_id)]
            assert any(isinstance(event, RoundCompleted) for event in events)
            marks.append((wire.down, wire.up))
        serving.cancel()
    return [(after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(marks)]


def report(layout: str, traffic: list[tuple[int, int]]) -> None:
    """Print one line of means.

    Args:
        layout: where the devices connect.
        traffic: bytes down and up of each round.
    """
    down, up = (sum(counts[i] for counts in traffic) / len(traffic) / MB for i in (0, 1))
    print(f"{layout:<28} per round: {down:6.2f} MB down, {up:6.2f} MB up  (mean of {len(traffic)})")


async def main(clients: int, rounds: int) -> None:
    """Measure both layouts.

    Args:
        clients: number of devices.
        rounds: number of measured rounds.
    """
    for layout in ("devices on the backbone", "devices behind a relay"):
        with tempfile.TemporaryDirectory(prefix="relay-") as folder:
            async with (
                NatsServer(Path(folder) / "hub") as hub,
                NatsServer(Path(folder) / "site") as site,
                wire_to(hub.port) as wire,
            ):
                linked = hub.url.replace(f":{hub.port}", f":{wire.port}")
                async with contextlib.AsyncExitStack() as stack:
                    is_relayed = layout.endswith("relay")
                    if is_relayed:
                        await stack.enter_async_context(relay_between(linked, site))
                    await stack.enter_async_context(devices_on(site.url if is_relayed else linked, clients))
                    report(layout, await measure(hub, wire, clients, rounds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    logs.configure(quiet=True)
    heap.keep_large_blocks()
    asyncio.run(main(arguments.clients, arguments.rounds))
