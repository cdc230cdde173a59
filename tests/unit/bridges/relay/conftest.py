"""The two brokers of a relay."""

from collections.abc import AsyncIterator

import pytest

import broker
from broker.base import Broker


@pytest.fixture
async def backbone() -> AsyncIterator[Broker]:
    """A broker in this process."""
    async with broker.connect("memory://relay-backbone") as bus:
        yield bus


@pytest.fixture
async def site() -> AsyncIterator[Broker]:
    """Another broker in this process."""
    async with broker.connect("memory://relay-site") as bus:
        yield bus
