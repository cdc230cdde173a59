"""The brokers that the contract holds for. Another one is another row."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest

import broker
from broker import Broker
from broker.embedded import NatsServer

ACK_WAIT_S = 0.5

Connect = Callable[[], AbstractAsyncContextManager[Broker]]


@pytest.fixture(params=["memory_url", "nats_url"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Opens a connection to the broker under test, as often as it is called."""
    return partial(broker.connect, request.getfixturevalue(request.param), ack_wait_s=ACK_WAIT_S)


@pytest.fixture
def nats_url(nats_server: NatsServer) -> str:
    return nats_server.url


@pytest.fixture
async def bus(connect: Connect) -> AsyncIterator[Broker]:
    """A connection to the broker under test."""
    async with connect() as bus:
        yield bus
