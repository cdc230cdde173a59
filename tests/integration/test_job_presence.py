"""Clients whose bridge is absent: when a round invites them, and when it waits for them."""

import asyncio
from contextlib import aclosing

import msgspec
import pytest

from broker import topics
from broker.base import Broker
from broker.messages import progress
from broker.messages.register import Presence
from broker.support.tasks import task_group
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.job_progress import events_of, watch_to_end


async def test_clients_of_an_absent_bridge_are_not_invited(sdk: Client, bus: Broker) -> None:
    absent = [msgspec.structs.replace(client, platform="away") for client in fakes.clients(8)[4:]]
    await sdk.register([*fakes.clients(4), *absent])
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        messages = await watch_to_end(sdk, await sdk.submit(fakes.job()))
        present = {client.id for client in fakes.clients(4)}
        assert all(set(opened.cohort) == present for opened in events_of(messages, progress.RoundOpened))
        job = await sdk.submit(fakes.job(cohort={"clients": 5, "wait_s": 0.3}))
        failed = events_of(await watch_to_end(sdk, job), progress.JobFailed)[0]
    assert "8 of 5 clients that hold 'own' are registered" in failed.reason
    assert "4 of them on away, whose bridge is not there" in failed.reason


async def present_until_a_round_opens(sdk: Client, platform: str) -> None:
    """A bridge that takes no tasks and stops announcing its presence when a round opens."""
    presence = Presence(bridge=f"{platform}-1", platform=platform, every_s=0.1)
    async with task_group() as group:

        async def announce() -> None:
            while True:
                await sdk.broker.put(topics.presence(presence.platform, presence.bridge), msgspec.json.encode(presence))
                await asyncio.sleep(presence.every_s / 2)

        announcing = group.create_task(announce(), name=f"presence of {presence.bridge}")
        async with aclosing(sdk.watch()) as messages:
            async for message in messages:
                if isinstance(message.event, progress.RoundOpened):
                    break
        announcing.cancel()


async def test_a_round_does_not_wait_for_the_clients_of_a_bridge_that_dies(sdk: Client, bus: Broker) -> None:
    dying = [msgspec.structs.replace(client, platform="dying") for client in fakes.clients(4)[3:]]
    await sdk.register([*fakes.clients(3), *dying])
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve(), present_until_a_round_opens(sdk, "dying")):
        spec = fakes.job(cohort={"quorum": 3, "grace_s": 1000.0, "deadline_s": 1000.0}, stop={"rounds": 1})
        messages = await watch_to_end(sdk, await sdk.submit(spec))
    assert "no bridge of dying is there" in events_of(messages, progress.ClientFailed)[0].reason
    assert events_of(messages, progress.RoundCompleted)[0].missing == (dying[0].id,)


async def test_presence_may_be_ignored(sdk: Client, bus: Broker) -> None:
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning())):
        job = await sdk.submit(fakes.job(cohort={"presence": "ignored", "deadline_s": 0.2, "on_failure": "stop"}))
        assert events_of(await watch_to_end(sdk, job), progress.RoundOpened)


@pytest.mark.slow
async def test_a_round_waits_for_the_clients_of_a_dead_bridge_if_the_quorum_needs_them(
    sdk: Client, bus: Broker
) -> None:
    dying = [msgspec.structs.replace(client, platform="dying") for client in fakes.clients(4)[3:]]
    await sdk.register([*fakes.clients(3), *dying])
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve(), present_until_a_round_opens(sdk, "dying")):
        job = await sdk.submit(fakes.job(cohort={"quorum": 1.0, "deadline_s": 5.0, "on_failure": "stop"}))
        messages = await watch_to_end(sdk, job)
    assert not events_of(messages, progress.ClientFailed)
    opened, failed = events_of(messages, progress.RoundOpened)[0], events_of(messages, progress.RoundFailed)[0]
    assert "3 of 4" in failed.reason
    assert opened.deadline_s > 0
