"""After every fault of OpenWhisk the round completes, and counts every client once."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridges import openwhisk
from bridges.openwhisk import Settings
from broker.messages.progress import ClientRefused, ClientRestored, ClientTraining, UpdateCounted
from broker.nats.server import NatsServer
from emulators.openwhisk.controller import Whisk, emulated
from tests.support import platform_rounds
from tests.support.openwhisk_site import secrets, settings
from tests.support.platform_rounds import Rounds

pytestmark = [pytest.mark.slow, pytest.mark.torch]

KIND = ["trigger", "action"]


@pytest.fixture
async def site(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[tuple[Rounds, Whisk]]:
    """A system and an emulated OpenWhisk, without a bridge."""
    async with platform_rounds.rounds(nats_server, tmp_path) as system, emulated() as whisk:
        yield system, whisk


@contextlib.asynccontextmanager
async def bridged(system: Rounds, config: Settings) -> AsyncIterator[list[str]]:
    """Run a bridge, deploy two clients, and yield their ids."""
    store = secrets(system.folder)
    async with openwhisk.opened(config, store, system.bus) as platform, system.bridge(platform):
        yield await system.deploy(system.file("openwhisk", 2))


def counted_once(system: Rounds, clients: list[str]) -> None:
    assert sorted(event.client for event in system.all(UpdateCounted)) == clients


@pytest.mark.parametrize("invoke", KIND)
async def test_activations_that_are_never_stored(site: tuple[Rounds, Whisk], invoke: str) -> None:
    system, whisk = site
    async with bridged(system, settings(whisk, invoke=invoke)) as clients:
        whisk.lose_runs = 2
        await system.train(2)
    counted_once(system, clients)
    assert [system.trainings(client) for client in clients] == [1, 1]
    for client in clients:
        assert system.only(ClientTraining, client=client).cold is True


@pytest.mark.parametrize("invoke", KIND)
async def test_an_action_that_was_deleted_behind_our_back(site: tuple[Rounds, Whisk], invoke: str) -> None:
    system, whisk = site
    async with bridged(system, settings(whisk, invoke=invoke)) as clients:
        whisk.entities.delete("actions", clients[0])
        await system.train(2)
    assert system.only(ClientRestored).client == clients[0]
    counted_once(system, clients)


async def test_a_rule_that_was_deleted_behind_our_back(site: tuple[Rounds, Whisk]) -> None:
    system, whisk = site
    async with bridged(system, settings(whisk)) as clients:
        whisk.entities.delete("rules", f"{clients[1]}.rule")
        await system.train(2)
    assert system.only(ClientRestored).client == clients[1]
    counted_once(system, clients)


async def test_a_storm_of_refusals(site: tuple[Rounds, Whisk]) -> None:
    system, whisk = site
    async with bridged(system, settings(whisk)) as clients:
        whisk.faults.extend([429] * 4)
        await system.train(2)
    assert {event.client for event in system.all(ClientRefused)} == set(clients)
    assert all("429" in event.reason for event in system.all(ClientRefused))
    counted_once(system, clients)
