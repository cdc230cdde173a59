"""The id of a deleted job can be used again at once, and no event of the second job is taken for one of the first."""

import asyncio

import pytest

import broker
from broker.nats.server import NatsServer
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running

WITHIN_S = 120.0
BROKERS = {"memory": "memory_url", "nats": "nats_url", "mosquitto": "mosquitto_url"}


@pytest.fixture(params=list(BROKERS))
def url(request: pytest.FixtureRequest) -> str:
    """A broker's address."""
    address: str = request.getfixturevalue(BROKERS[request.param])
    return address


@pytest.fixture
def nats_url(nats_server: NatsServer) -> str:
    return nats_server.url


async def events_of(sdk: Client, rounds: int) -> list[str]:
    """Run the job to its end, and return its events."""
    await sdk.submit(
        fakes.job(id="again", stop={"rounds": rounds}, cohort={"clients": 3, "quorum": 1.0}), timeout_s=WITHIN_S
    )
    return [update.event.what async for update in sdk.watch("again")]


async def test_every_event_of_a_job_whose_id_was_deleted_is_published(url: str) -> None:
    async with broker.connect(url) as bus, asyncio.timeout(WITHIN_S):
        fleet, sdk = Fleet(bus), Client(bus)
        await sdk.register(fakes.clients(3))
        async with running(serve(bus, FakeLearning()), fleet.serve()):
            first = await events_of(sdk, 1)
            await sdk.remove_job("again")
            second = await events_of(sdk, 1)
            await sdk.remove_job("again")
            third = await events_of(sdk, 2)
    assert sorted(first) == sorted(second)
    assert (first[0], first[-1]) == ("job.accepted", "job.completed")
    assert (third.count("job.accepted"), third.count("round.completed")) == (1, 2)
