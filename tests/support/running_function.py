"""A client's function with a real broker and a shard of digits, for tests."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.messages import codec
from broker.messages import tensors as payload
from broker.messages.invocation import InvocationRequest, Report
from broker.messages.job_sections import Model
from broker.messages.update import UpdateHeader
from broker.nats.server import NatsServer
from client_fn.data import datasets, shards
from client_fn.runtime.instance import Instance
from client_fn.runtime.settings import Settings
from client_fn.site import Site as ClientSite
from client_fn.training import loop
from tests.support.function_site import Site, task_for
from tests.support.trainers import use_inline
from tests.support.values import payload_of

WITHIN_S = 120.0
TASK = "job.1.c1"
SITE = ClientSite(secret=b"the same digests of shards in every instance")
DIGITS = Model(args={"input_size": 64, "hidden": 8, "classes": 10})


@dataclass
class RunningFunction:
    """A real broker, a client's shard of digits, and an instance of the client's function.

    Attributes:
        trainings: one entry for each training.
        hold: while it is set, trainings wait.
        begun: is set when a training begins.
        connections: names of the connections that the instances opened.
    """

    site: Site
    server: NatsServer
    instance: Instance
    trainings: list[int] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    connections: list[str] = field(default_factory=list)

    @property
    def bus(self) -> Broker:
        return self.site.bus

    async def request(self, attempt: int = 1, **changes: Any) -> InvocationRequest:
        return InvocationRequest(await task_for(self.site, **{"model_configuration": DIGITS, **changes}), attempt)

    async def run(self, request: InvocationRequest, activation: str = "", by: Instance | None = None) -> Report:
        return await asyncio.to_thread((by or self.instance).run, request, activation=activation)

    async def retained_report(self) -> Report:
        """Return the report that the broker retains."""
        value = await self.bus.get(topics.report("local", "c1"))
        assert value is not None
        return codec.decode(Report, value.payload)

    async def update(self, attempt: int = 1) -> tuple[payload.Tensors, UpdateHeader]:
        value = await self.bus.get(topics.update("job", 1, "c1", attempt))
        assert value is not None
        decoded, metadata = payload.decode(value.payload)
        return decoded, UpdateHeader.from_metadata(metadata)


@contextlib.contextmanager
def _count(function: RunningFunction, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    train, connect = loop.train, broker.connect

    def counted_train(*args: Any, **more: Any) -> dict[str, float]:
        function.trainings.append(1)
        function.begun.set()
        while function.hold.is_set():
            args[3].before_batch()
            time.sleep(0.01)
        return train(*args, **more)

    def counted_connect(url: str, *, name: str, **more: Any) -> contextlib.AbstractAsyncContextManager[Broker]:
        function.connections.append(name)
        return connect(url, name=name, **more)

    with monkeypatch.context() as patch:
        use_inline(patch)
        patch.setattr(loop, "train", counted_train)
        patch.setattr(broker, "connect", counted_connect)
        yield


@contextlib.asynccontextmanager
async def running_function(
    server: NatsServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RunningFunction]:
    """Store 40 digits as the client's shard, connect to the broker, and create an instance until the end of the block.

    The instances train in this process, where trainings can be counted and held.

    Args:
        server: the broker.
        folder: folder for the shard.
        monkeypatch: counts trainings and connections.
    """
    digits = datasets.load("digits")
    data_loc = f"{folder}/shard.safetensors"
    shards.write(data_loc, digits.train_x[:40], digits.train_y[:40])
    async with broker.connect(server.url) as bus:
        function = RunningFunction(Site(bus, data_loc), server, Instance(Settings(server.url, "c1", site=SITE)))
        with _count(function, monkeypatch):
            yield function
            function.hold.clear()
            await asyncio.to_thread(function.instance.close)


async def reports_until(function: RunningFunction, until: str) -> list[Report]:
    """Return the reports that are retained one after the other, up to the first of state `until`."""
    reports: list[Report] = []
    async with asyncio.timeout(WITHIN_S), function.bus.watch(topics.report("local", topics.ANY)) as values:
        async for value in values:
            reports.append(codec.decode(Report, payload_of(value)))
            if reports[-1].state == until:
                break
    return reports


def recording(original: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    """Return a function that adds its arguments to `calls` and calls the original."""

    def record(*args: Any, **more: Any) -> Any:
        calls.append(args)
        return original(*args, **more)

    return record
