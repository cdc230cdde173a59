"""Helpers for tests of Pub/Sub: Google's own clients, and an endpoint for pushes."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from aiohttp import web
from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

WITHIN_S: Final = 120.0
CALL: Final = {"retry": None, "timeout": 60.0}


@dataclass(frozen=True)
class Kind:
    """A kind of Pub/Sub, with its differences from Google Cloud.

    Attributes:
        name: name of the kind.
        refuses_large: whether it refuses requests of more than 10,000,000 bytes.
        refuses_short_deadlines: whether it refuses acknowledgement deadlines below 10 s.
        pushes_ordering_key: whether the body of a push has the ordering key.
        pushes_empty_data: whether the body of a push has empty data if the message has none.
    """

    name: str
    refuses_large: bool = True
    refuses_short_deadlines: bool = True
    pushes_ordering_key: bool = True
    pushes_empty_data: bool = False


OURS: Final = Kind("ours")
GOOGLES: Final = Kind(
    "googles",
    refuses_large=False,
    refuses_short_deadlines=False,
    pushes_ordering_key=False,
    pushes_empty_data=True,
)


@dataclass(frozen=True)
class Service:
    """A running Pub/Sub with Google's clients."""

    kind: Kind
    publisher: PublisherClient
    subscriber: SubscriberClient
    project: str = field(default_factory=lambda: f"projects/test-{uuid.uuid4().hex[:20]}")

    @property
    def topic(self) -> str:
        return f"{self.project}/topics/fedkeeper-client"

    @property
    def pulled(self) -> str:
        return f"{self.project}/subscriptions/pulled"

    @property
    def pushed(self) -> str:
        return f"{self.project}/subscriptions/pushed"

    async def call(self, method: Callable[..., Any], **request: Any) -> Any:
        return await asyncio.to_thread(method, request=request, **CALL)

    async def publish(self, data: bytes, **attributes: str) -> str:
        return str(await asyncio.wrap_future(self.publisher.publish(self.topic, data, **attributes)))

    async def pull(self, most: int = 10) -> list[Any]:
        response = await self.call(self.subscriber.pull, subscription=self.pulled, max_messages=most)
        return list(response.received_messages)

    async def make_topic(self) -> None:
        await self.call(self.publisher.create_topic, name=self.topic)

    async def make_subscription(self) -> None:
        await self.make_topic()
        await self.call(self.subscriber.create_subscription, name=self.pulled, topic=self.topic)


@contextlib.asynccontextmanager
async def clients(kind: Kind, address: str) -> AsyncIterator[Service]:
    # The client's default channel to an emulator has a limit of 4 MiB.
    channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
    publisher = await asyncio.to_thread(PublisherClient)
    subscriber = await asyncio.to_thread(SubscriberClient, transport=SubscriberGrpcTransport(channel=channel))
    try:
        yield Service(kind, publisher, subscriber)
    finally:
        publisher.stop()
        await asyncio.to_thread(publisher.transport.close)
        await asyncio.to_thread(subscriber.close)


@dataclass(frozen=True)
class Endpoint:
    """A server that Pub/Sub pushes messages to.

    Attributes:
        url: address of the server.
        requests: headers and body of every request.
        statuses: statuses of the next responses; 200 after that.
    """

    url: str
    requests: "asyncio.Queue[tuple[dict[str, str], dict[str, Any]]]"
    statuses: list[int]

    async def next(self) -> tuple[dict[str, str], dict[str, Any]]:
        async with asyncio.timeout(WITHIN_S):
            return await self.requests.get()


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[Endpoint]:
    """Run an endpoint until the end of the block."""
    requests: asyncio.Queue[tuple[dict[str, str], dict[str, Any]]] = asyncio.Queue()
    statuses: list[int] = []

    async def take(request: web.Request) -> web.Response:
        requests.put_nowait(
            ({key.lower(): value for key, value in request.headers.items()}, json.loads(await request.read()))
        )
        return web.Response(status=statuses.pop(0) if statuses else 200)

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    yield Endpoint(f"http://{host}:{port}/", requests, statuses)
    await runner.cleanup()


async def pushes_to(service: Service, endpoint: Endpoint) -> None:
    await service.make_topic()
    config = {"push_endpoint": endpoint.url}
    await service.call(
        service.subscriber.create_subscription, name=service.pushed, topic=service.topic, push_config=config
    )
