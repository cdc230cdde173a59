"""A backbone and sites with relays between them, for tests."""

import asyncio
import hashlib
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import broker
from bridges.relay import Relay, Settings
from broker import topics
from broker.base import Broker
from broker.deliveries import Delivery, Value
from broker.messages import cloudevents, progress
from broker.messages.round import BlobRef, RoundTask
from broker.nats.server import NatsServer
from emulators.wire import Wire, wire_to
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.brokers import STORE_BYTES, Mosquitto
from tests.support.fakes import FakeLearning, Fleet, running

WITHIN_S = 120.0
ACK_WAIT_S = 1.0


@dataclass
class World:
    """Brokers for a backbone and its sites, all of one kind. With `mosquitto`, the backbone is on NATS."""

    kind: str
    folder: Path
    stack: AsyncExitStack
    servers: dict[str, NatsServer | Mosquitto] = field(default_factory=dict)
    wires: dict[str, Wire] = field(default_factory=dict)

    async def url(self, place: str) -> str:
        """Return a broker's address. The first call starts the broker."""
        if self.kind == "memory":
            return f"memory://{self.folder}/{place}"
        if place not in self.servers:
            server = self._server(place)
            await server.start()
            self.stack.push_async_callback(server.kill)
            self.servers[place] = server
        return self.servers[place].url

    def _server(self, place: str) -> NatsServer | Mosquitto:
        if self.kind == "mosquitto" and place != "backbone":
            return Mosquitto(self.folder / place, on_changes=True)
        return NatsServer(self.folder / place, max_file_bytes=STORE_BYTES)

    async def wired_url(self, place: str) -> str:
        """Return the same broker's address behind a link that a test can cut."""
        url, port = await self.url(place), self.servers[place].port
        self.wires[place] = await self.stack.enter_async_context(wire_to(port))
        return url.replace(f":{port}", f":{self.wires[place].port}")

    async def connect(self, url: str, ack_wait_s: float = ACK_WAIT_S) -> Broker:
        return await self.stack.enter_async_context(broker.connect(url, ack_wait_s=ack_wait_s))

    async def at(self, place: str) -> Broker:
        """Connect to the broker of a place."""
        return await self.connect(await self.url(place))


def settings(site: str = "site-a", platform: str = "edge-a", **more: Any) -> Settings:
    return Settings(
        name=site, platforms=(platform,), backbone="memory://not-read", site="memory://not-read-either", **more
    )


def relay(backbone: Broker, site: Broker, own_settings: Settings | None = None) -> Relay:
    return Relay(own_settings or settings(), backbone, site, heartbeat_s=ACK_WAIT_S / 4)


async def watch_to_end(sdk: Client, job: str) -> list[progress.Event]:
    """Return all events of a job, from its start to its end."""
    async with asyncio.timeout(WITHIN_S):
        return [message.event async for message in sdk.watch(job)]


async def digest(sdk: Client, job: str) -> str:
    record = await sdk.job(job)
    assert record.phase == "completed", record.reason
    assert record.model is not None
    return record.model.sha256


async def train(backbone: Broker, job_id: str = "", count: int = 4) -> tuple[str, Counter[str]]:
    """Run a job; return its model's digest, and how often each client's update counted in each round.

    All clients are in the cohort. Otherwise the digest would depend on which bridge announces itself first.
    """
    sdk = Client(backbone)
    job = job_id or await sdk.submit(fakes.job(cohort={"clients": count}))
    job_events = await watch_to_end(sdk, job)
    counted = Counter(
        f"{event.round} {event.client}" for event in job_events if isinstance(event, progress.UpdateCounted)
    )
    return await digest(sdk, job), counted


async def digest_without_relay(count: int) -> str:
    """Return the digest of the same job if all clients are connected to the FL server's broker."""
    async with broker.connect("memory://undisturbed") as bus:
        await Client(bus).register(fakes.clients(count))
        async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
            return (await train(bus, count=count))[0]


async def events(bus: Broker, topic_filter: str, count: int) -> list[Delivery]:
    """Return the first events of the topics that match a filter."""
    items: list[Delivery] = []
    async with asyncio.timeout(WITHIN_S), bus.subscribe(topic_filter) as deliveries:
        async for delivery in deliveries:
            items.append(delivery)
            if len(items) == count:
                break
    return items


async def next_tasks(site: Broker, count: int) -> list[RoundTask]:
    """Return the next tasks of the site's bridge."""
    items: list[RoundTask] = []
    name = topics.platform_tasks("edge-a")
    async with asyncio.timeout(WITHIN_S), site.subscribe(name, durable="bridge-edge-a") as deliveries:
        async for delivery in deliveries:
            items.append(cloudevents.data_of(await delivery.read(), RoundTask))
            await delivery.ack()
            if len(items) == count:
                break
    return items


async def wait_for_value(bus: Broker, topic: str, content: bytes) -> None:
    """Wait until the retained value of a topic contains `content`."""
    async with asyncio.timeout(WITHIN_S), bus.watch(topic) as values:
        async for change in values:
            if isinstance(change, Value) and content in change.payload:
                return


async def wait_until_absent(bus: Broker, topic: str) -> None:
    """Wait until a topic has no retained value."""
    async with asyncio.timeout(WITHIN_S):
        while await bus.get(topic) is not None:  # noqa: ASYNC110 (a topic that never had a value sends no event)
            await asyncio.sleep(0.02)


async def answer_with_state(bus: Broker, task: RoundTask) -> None:
    """Train as a client whose job carries the optimizer's state."""
    if task.states:
        value = await bus.get(task.states["opt"].topic)
        assert value is not None
        assert value.payload == state_of(task, task.round - 1)
    content = state_of(task, task.round)
    topic = topics.client_state(task.job, task.client_id, task.round, 1, "opt")
    await bus.put(topic, content)
    ref = BlobRef(topic, hashlib.sha256(content).hexdigest(), len(content))
    update = fakes.update(fakes.trained(await fakes.base_of(bus, task), task), fakes.header(task, states={"opt": ref}))
    await bus.publish(topics.update(task.job, task.round, task.client_id, 1), update)


def state_of(task: RoundTask, round_: int) -> bytes:
    return f"state of {task.client_id} after round {round_}".encode()


async def no_answer(bus: Broker, task: RoundTask) -> None:
    """Send no update."""
