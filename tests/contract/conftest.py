"""The brokers that the contract holds for. Another one is another row."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest

import broker
from broker import Broker
from broker.nats.server import NatsServer
from tests.contract import capabilities
from tests.support.brokers import REDELIVERY_S

HASTE_S = 0.8
"""How long a hasty broker waits for an acknowledgement; the others wait longer than any test."""

Connect = Callable[[], AbstractAsyncContextManager[Broker]]


@pytest.fixture(params=list(capabilities.BROKERS))
def kind(request: pytest.FixtureRequest) -> str:
    """Which broker is under test."""
    name: str = request.param
    return name


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest) -> str:
    """The broker under test."""
    address: str = request.getfixturevalue(capabilities.BROKERS[kind])
    return address


@pytest.fixture
def connect(url: str) -> Connect:
    """Opens a connection to the broker under test, as often as it is called."""
    return partial(broker.connect, url)


@pytest.fixture
def connect_nats(nats_url: str) -> Connect:
    """Opens a hasty connection to a real nats-server, as often as it is called."""
    return partial(broker.connect, nats_url, ack_wait_s=HASTE_S)


@pytest.fixture
def nats_url(nats_server: NatsServer) -> str:
    return nats_server.url


@pytest.fixture
async def bus(connect: Connect) -> AsyncIterator[Broker]:
    """A connection to the broker under test."""
    async with connect() as bus:
        yield bus


@pytest.fixture
async def hasty_bus(url: str) -> AsyncIterator[Broker]:
    """A connection to the broker under test, that soon delivers again what nobody acknowledged."""
    async with broker.connect(url, ack_wait_s=REDELIVERY_S) as bus:
        yield bus
