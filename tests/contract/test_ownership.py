"""Two machines with one platform's name, over every broker: exactly one serves it."""

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import pytest

from broker import Broker
from tests.support.boards import Board
from tests.support.fakes import running, soon

Connect = Callable[[], AbstractAsyncContextManager[Broker]]

WITHIN_S: Final = 120.0
EVERY_S: Final = 0.5


async def boards(stack: contextlib.AsyncExitStack, connect: Connect, *hosts: str) -> list[Board]:
    """Machines with connections of their own, and with these host names."""
    buses = [await stack.enter_async_context(connect()) for _ in hosts]
    return [Board(bus, f"id-{i}", host, EVERY_S) for i, (bus, host) in enumerate(zip(buses, hosts, strict=True))]


@pytest.mark.parametrize("hosts", [("jetson-1", "jetson-2"), ("jetson", "jetson")], ids=["two names", "one name"])
async def test_a_second_machine_is_refused_and_the_first_goes_on(connect: Connect, hosts: tuple[str, str]) -> None:
    async with asyncio.timeout(WITHIN_S), contextlib.AsyncExitStack() as stack:
        first, second = await boards(stack, connect, *hosts)
        await stack.enter_async_context(running(first.serve()))
        await first.is_up.wait()
        await second.serve()
        assert hosts[0] in str(second.ended)
        first.is_up.clear()
        await first.is_up.wait()
        held = await first.retained()
        assert (first.ended, held.gone, held.host and held.host.id) == (None, False, "id-0")


@pytest.mark.parametrize("hosts", [("jetson-1", "jetson-2"), ("jetson", "jetson")], ids=["two names", "one name"])
async def test_of_two_that_start_together_exactly_one_stays(connect: Connect, hosts: tuple[str, str]) -> None:
    async with asyncio.timeout(WITHIN_S), contextlib.AsyncExitStack() as stack:
        both = await boards(stack, connect, *hosts)
        await stack.enter_async_context(running(*(board.serve() for board in both)))
        await soon(lambda: any(board.ended for board in both))
        (stays,) = [board for board in both if board.ended is None]
        for _ in range(3):
            stays.is_up.clear()
            await stays.is_up.wait()
        assert stays.ended is None
        assert not (await stays.retained()).gone
