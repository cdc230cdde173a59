"""A service survives an outage of its broker, but fails if it never had a connection."""

import asyncio

import pytest

from broker.errors import ConnectFailed, Disconnected
from fedkeeper.services.restart import run_with_restarts


async def test_a_service_restarts_until_the_broker_is_back() -> None:
    ends: list[Exception] = [Disconnected("gone"), ConnectFailed("nats://x:1", "refused"), Disconnected("gone again")]
    back = asyncio.Event()

    async def service() -> None:
        if ends:
            raise ends.pop(0)
        back.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(run_with_restarts(service, pause_s=0.0))
    await asyncio.wait_for(back.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_failed_first_connection_is_an_error() -> None:
    async def service() -> None:
        raise ConnectFailed("nats://x:1", "refused")

    with pytest.raises(ConnectFailed):
        await run_with_restarts(service, pause_s=0.0)


async def test_a_bug_is_not_hidden() -> None:
    async def service() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await run_with_restarts(service, pause_s=0.0)
