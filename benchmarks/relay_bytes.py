"""What goes over the link to a site of 10 devices, per round: all of them on the backbone, or behind a relay.

Nothing is trained; the rest is real: nats-server at both ends, FL server, the function, the paper's two-layer network
(397,510 parameters). As untrained models do not change, each round is a job of its own with another seed. Each device
is an instance of the function with its own connection. Counted are the bytes of the TCP stream, in a proxy in front of
the backbone.

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
from broker.messages.job import Job, from_dict
from broker.messages.progress import RoundCompleted
from broker.messages.register import ClientRecord
from broker.messages.round import RoundTask
from broker.nats.server import NatsServer
from broker.support import heap, logs
from broker.support.tasks import task_group
from client_fn.function import WarmState, handle
from emulators.wire import Wire, wire_to
from fedkeeper.learning import TorchLearning
from fedkeeper.sdk import Client
from server import service

PLATFORM: Final = "edge-a"
MB: Final = 1e6


class Devices:
    """A platform of instances of the function, each with a connection of its own."""

    name = PLATFORM

    def __init__(self, connections: dict[str, Broker]) -> None:
        self.concurrency = len(connections)
        self._connections = connections
        self._warm = {client: WarmState() for client in connections}

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """See `bridges.platform.Platform`."""
        client = task.client_id
        yield Activation(client, "running")
        await handle(task, self._connections[client], self._warm[client], attempt=attempt)
        yield Activation(client, "succeeded")


def names(clients: int) -> list[str]:
    """The devices."""
    return [f"device-{i:03d}" for i in range(clients)]


def job(clients: int, seed: int) -> Job:
    """One round of everything but training."""
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
    """A bridge and its devices, connected to that broker."""
    async with contextlib.AsyncExitStack() as stack:
        opened = {name: await stack.enter_async_context(broker.connect(url, name=name)) for name in names(clients)}
        bus = await stack.enter_async_context(broker.connect(url, name="bridge"))
        group = await stack.enter_async_context(task_group())
        running = group.create_task(Runner(bus, Invoker(Devices(opened))).run(), name="bridge")
        yield
        running.cancel()


@contextlib.asynccontextmanager
async def relayed(backbone_url: str, site: NatsServer) -> AsyncIterator[None]:
    """A relay between the two."""
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
    """Bytes down and up over the link, from each round's end to the next one's; the first round is left out."""
    marks = []
    async with broker.connect(hub.url, name="server") as bus, task_group() as group:
        serving = group.create_task(service.serve(bus, TorchLearning(None)), name="server")
        fabric = Client(bus)
        await fabric.register(
            [ClientRecord(id=name, platform=PLATFORM, labels={"data": "nothing"}) for name in names(clients)]
        )
        for seed in range(rounds + 1):
            said = [one.event async for one in fabric.watch(await fabric.submit(job(clients, seed), timeout_s=60))]
            assert any(isinstance(event, RoundCompleted) for event in said)
            marks.append((wire.down, wire.up))
        serving.cancel()
    return [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(marks)]


def report(what: str, found: list[tuple[int, int]]) -> None:
    """One line of means."""
    down, up = (sum(one[i] for one in found) / len(found) / MB for i in (0, 1))
    print(f"{what:<28} per round: {down:6.2f} MB down, {up:6.2f} MB up  (mean of {len(found)})")


async def main(clients: int, rounds: int) -> None:
    """Measure both."""
    for what in ("devices on the backbone", "devices behind a relay"):
        with tempfile.TemporaryDirectory(prefix="relay-") as folder:
            async with (
                NatsServer(Path(folder) / "hub") as hub,
                NatsServer(Path(folder) / "site") as site,
                wire_to(hub.port) as wire,
            ):
                linked = hub.url.replace(f":{hub.port}", f":{wire.port}")
                async with contextlib.AsyncExitStack() as stack:
                    behind = what.endswith("relay")
                    if behind:
                        await stack.enter_async_context(relayed(linked, site))
                    await stack.enter_async_context(devices_on(site.url if behind else linked, clients))
                    report(what, await measure(hub, wire, clients, rounds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    logs.configure(quiet=True)
    heap.keep_large_blocks()
    asyncio.run(main(arguments.clients, arguments.rounds))
