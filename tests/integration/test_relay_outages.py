"""A site whose link is cut or whose broker crashes."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broker import topics
from broker.base import Broker
from broker.messages import cloudevents
from broker.messages.invocation import Invocation
from broker.messages.round import RoundTask
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.brokers import Mosquitto
from tests.support.fake_platforms import publish
from tests.support.fakes import FakeLearning, Fleet, running, soon
from tests.support.relay_world import (
    WITHIN_S,
    World,
    digest_without_relay,
    events,
    no_answer,
    relay,
    train,
)
from tests.support.tasks import task


@pytest.fixture(params=["nats", "mosquitto"])
async def wide(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Real brokers only, because a test can cut their links."""
    async with AsyncExitStack() as stack:
        yield World(request.param, tmp_path, stack)


@pytest.mark.slow
async def test_updates_wait_at_a_site_that_is_cut_off_and_count_when_it_is_back(
    wide: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.reconnect.CALL_S", 1.0)
    backbone, site = await wide.at("backbone"), await wide.at("site")
    linked = await wide.connect(await wide.wired_url("backbone"))
    wire = wide.wires["backbone"]

    async def cut_then_answer(bus: Broker, task: RoundTask) -> None:
        if task.round == 1:
            await wire.cut()
        await fakes.answer(bus, task)

    fleet = Fleet(site, cut_then_answer, platform="edge-a")
    await Client(backbone).register(fakes.clients(4, platform="edge-a"))
    with capture_logs() as logs:
        async with running(serve(backbone, FakeLearning()), relay(linked, site).run(), fleet.serve()):
            job = await Client(backbone).submit(fakes.job())
            await soon(lambda: any(line["event"] == "site is cut off" for line in logs))
            # The tasks that reached the site by then are trained; none of their updates has reached the backbone.
            waiting = len(fleet.tasks)
            assert waiting
            assert len(await events(site, topics.job_updates(job), waiting)) == waiting
            await wire.mend()
            model, counted = await train(backbone, job)
            await soon(lambda: any(line["event"] == "the events that waited are delivered" for line in logs))
    assert model == await digest_without_relay(4)
    assert set(counted.values()) == {1}
    assert set(fleet.task_counts.values()) == {1}
    assert any(line["event"] == "site is back" for line in logs)
    late = next(line["late"] for line in logs if line["event"] == "the events that waited are delivered")
    assert late["updates"] >= waiting


@pytest.mark.slow
async def test_a_task_that_expired_while_the_site_was_away_is_not_started(wide: World) -> None:
    backbone, site = await wide.at("backbone"), await wide.at("site")
    fleet = Fleet(site, no_answer, platform="edge-a")
    async with running(relay(backbone, site).run(), fleet.serve()):
        await publish(backbone, task("client-00", "edge-a"))
        await soon(lambda: len(fleet.tasks) == 1)
        await wide.servers["site"].kill()
        await publish(backbone, task("client-01", "edge-a", deadline_s=time.time() + 1.5))
        [delivery] = await events(backbone, topics.invocation("edge-a", "client-01"), 1)
        record = cloudevents.data_of(await delivery.read(), Invocation)
        assert (record.outcome, record.client) == ("expired", "client-01")
        assert "out of reach" in record.reason
        await wide.servers["site"].start()
        await publish(backbone, task("client-02", "edge-a"))
        await soon(lambda: any(task.client_id == "client-02" for task in fleet.tasks), WITHIN_S)
    # The first one's acknowledgement may have been lost with the broker.
    assert {task.client_id for task in fleet.tasks} == {"client-00", "client-02"}


async def test_a_site_s_broker_that_is_killed_in_the_middle_of_a_round_costs_nothing(wide: World) -> None:
    backbone, site = await wide.at("backbone"), await wide.at("site")
    killed = asyncio.Event()

    async def kill_once(bus: Broker, task: RoundTask) -> None:
        await fakes.answer(bus, task)
        if not killed.is_set():
            killed.set()
            server = wide.servers["site"]
            if isinstance(server, Mosquitto):
                await server.save()
            await server.kill()
            await server.start()

    fleet = Fleet(site, kill_once, platform="edge-a")
    await Client(backbone).register(fakes.clients(4, platform="edge-a"))
    async with running(serve(backbone, FakeLearning()), relay(backbone, site).run(), fleet.serve()):
        model, counted = await train(backbone)
    assert model == await digest_without_relay(4)
    assert set(counted.values()) == {1}
