"""Systems to test against: on the memory broker and on a real nats-server."""

from collections.abc import AsyncIterator

import pytest

import broker
from broker.base import Broker
from broker.nats.server import NatsServer
from fedkeeper.sdk import Client


@pytest.fixture(params=["memory_url", "nats_server"], ids=["memory", "nats"])
def url(request: pytest.FixtureRequest) -> str:
    """A broker's address."""
    fixture = request.getfixturevalue(request.param)
    return fixture.url if isinstance(fixture, NatsServer) else str(fixture)


@pytest.fixture
async def bus(url: str) -> AsyncIterator[Broker]:
    """A connection to it."""
    async with broker.connect(url, ack_wait_s=1.0) as connection:
        yield connection


@pytest.fixture
def sdk(bus: Broker) -> Client:
    """The SDK on it."""
    return Client(bus)
