"""Connections to every broker under test."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import nats
import pytest
from nats.aio.client import Client

import broker
from broker import Broker
from broker.nats.server import NatsServer
from tests.contract import capabilities
from tests.support.brokers import REDELIVERY_S

SHORT_ACK_WAIT_S = 0.8
"""The acknowledgement wait of `connect_nats`. All other connections wait longer than any test lasts."""

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
    """Open a connection to the broker under test; can be called many times."""
    return partial(broker.connect, url)


@pytest.fixture
def connect_nats(nats_url: str) -> Connect:
    """Open a connection with a short acknowledgement wait to a real nats-server; can be called many times."""
    return partial(broker.connect, nats_url, ack_wait_s=SHORT_ACK_WAIT_S)


@pytest.fixture
def nats_url(nats_server: NatsServer) -> str:
    return nats_server.url


@pytest.fixture
async def bus(connect: Connect) -> AsyncIterator[Broker]:
    """A connection to the broker under test."""
    async with connect() as bus:
        yield bus


@pytest.fixture
async def short_ack_wait_bus(url: str) -> AsyncIterator[Broker]:
    """A connection to the broker under test that soon redelivers an unacknowledged message."""
    async with broker.connect(url, ack_wait_s=REDELIVERY_S) as bus:
        yield bus


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    """Another application on the same server."""
    password = nats_server.password_file.read_text(encoding="utf-8")
    client = await nats.connect(f"nats://127.0.0.1:{nats_server.port}", user="fedkeeper", password=password)
    yield client
    await client.close()
