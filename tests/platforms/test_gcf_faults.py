"""After every fault of Pub/Sub and Cloud Functions the round completes, and counts every client once."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridges import RetryPolicy, gcf
from bridges.secrets import SecretStore
from broker.messages.progress import ClientFailed, ClientRestored, UpdateCounted
from broker.nats.server import NatsServer
from emulators.gcf import cloud as gcf_fabric
from emulators.gcf.cloud import Cloud
from tests.support import platform_rounds
from tests.support.gcf_site import settings
from tests.support.platform_rounds import SHORT_RETRIES, Rounds

pytestmark = [pytest.mark.slow, pytest.mark.torch]


@pytest.fixture
async def site(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Rounds, Cloud]]:
    """A system and an emulated Google Cloud, without a bridge."""
    async with (
        platform_rounds.rounds(nats_server, tmp_path) as system,
        gcf_fabric.serving(retry_first_s=0.05, retry_most_s=0.2) as cloud,
    ):
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", cloud.pubsub.address)
        yield system, cloud


@contextlib.asynccontextmanager
async def bridged(system: Rounds, cloud: Cloud, retries: RetryPolicy = SHORT_RETRIES) -> AsyncIterator[list[str]]:
    """Run a bridge, deploy three clients, and yield their ids."""
    async with gcf.opened(settings(cloud), SecretStore(), system.bus) as platform, system.bridge(platform, retries):
        yield await system.deploy(system.file("gcf", 3))


def counted_once(system: Rounds, clients: list[str]) -> None:
    assert sorted(event.client for event in system.all(UpdateCounted)) == clients
    assert [system.trainings(client) for client in clients] == [1] * len(clients)


async def test_every_message_comes_twice_and_out_of_order(site: tuple[Rounds, Cloud]) -> None:
    system, cloud = site
    async with bridged(system, cloud) as clients:
        cloud.pubsub.duplicates, cloud.pubsub.reorder = 3, 3
        completed = await system.train(3)
    assert completed.counted == tuple(clients)
    counted_once(system, clients)


async def test_a_training_that_is_killed_once_is_invoked_again(site: tuple[Rounds, Cloud]) -> None:
    system, cloud = site
    async with bridged(system, cloud) as clients:
        system.misbehave(clients[0], "end once")
        await system.train(3)
    assert "the process was killed by signal SIGKILL (9)" in system.only(ClientFailed, client=clients[0]).reason
    assert sorted(event.client for event in system.all(UpdateCounted)) == clients


async def test_a_function_that_was_deleted_behind_our_back_and_left_its_topic(site: tuple[Rounds, Cloud]) -> None:
    system, cloud = site
    async with bridged(system, cloud, RetryPolicy(retry_first_s=0.5, start_s=15.0)) as clients:
        (name,) = (name for name in cloud.functions.functions if name.endswith(clients[0]))
        await cloud.functions.remove(name)
        await system.train(3)
    assert "nothing was heard" in system.only(ClientRestored, client=clients[0]).reason
    assert sorted(event.client for event in system.all(UpdateCounted)) == clients
