"""A part of the system outlives its broker's absence, but not a broker that never was there."""

import asyncio

import pytest

from broker.errors import ConnectFailed, Disconnected
from fedkeeper.restart import run_with_restarts


async def test_a_part_starts_over_until_the_broker_is_back() -> None:
    ends: list[Exception] = [Disconnected("gone"), ConnectFailed("nats://x:1", "refused"), Disconnected("gone again")]
    back = asyncio.Event()

    async def part() -> None:
        if ends:
            raise ends.pop(0)
        back.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(run_with_restarts(part, pause_s=0.0))
    await asyncio.wait_for(back.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_broker_that_was_never_there_is_an_error() -> None:
    async def part() -> None:
        raise ConnectFailed("nats://x:1", "refused")

    with pytest.raises(ConnectFailed):
        await run_with_restarts(part, pause_s=0.0)


async def test_an_error_of_ours_is_not_hidden() -> None:
    async def part() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await run_with_restarts(part, pause_s=0.0)
