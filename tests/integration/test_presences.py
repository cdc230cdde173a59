"""Bridges whose clocks are wrong, over real brokers: whether they are up does not follow from their clocks."""

import asyncio
import time

import pytest

import broker
from bridges import presence
from broker.nats.server import NatsServer
from broker.support.tasks import task_group
from fedkeeper.sites import presences
from tests.support.brokers import Mosquitto

DAY_S = 86400.0


@pytest.fixture(params=["nats_server", "mosquitto"])
def url(request: pytest.FixtureRequest) -> str:
    server: NatsServer | Mosquitto = request.getfixturevalue(request.param)
    return server.url


@pytest.mark.parametrize("ahead_s", [-DAY_S, DAY_S])
async def test_a_bridge_with_a_wrong_clock_is_heard_and_its_clock_is_told(url: str, ahead_s: float) -> None:
    announced = asyncio.Event()
    async with asyncio.timeout(240), broker.connect(url) as bridge, broker.connect(url) as bus, task_group() as group:
        board = presence.Bridge("board-1", every_s=1.0)
        announcing = presence.announce(bridge, board, on_announced=announced.set, clock=lambda: time.time() + ahead_s)
        task = group.create_task(announcing, name="announce")
        await announced.wait()
        (word,) = await presences.read(bus, listen_s=120.0)  # ends with the first word
        task.cancel()
    assert word.ahead_s == pytest.approx(ahead_s, abs=600)
    assert word.age_s is not None
    assert word.age_s < DAY_S / 2
