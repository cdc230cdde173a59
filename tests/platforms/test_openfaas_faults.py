"""After every fault of OpenFaaS and its functions the round completes, and counts every client once."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from bridges import openfaas
from bridges.openfaas import Settings
from bridges.platform import ManagedPlatform
from bridges.secrets import SecretStore
from broker import topics
from broker.base import Broker
from broker.messages.progress import ClientFailed, ClientRefused, ClientRestored, UpdateCounted
from broker.messages.round import nonce
from broker.nats.server import NatsServer
from emulators.openfaas.gateway import Gateway, running
from server import invitations
from tests.support import platform_rounds
from tests.support.fakes import soon
from tests.support.openfaas_site import KEY, PASSWORD, write_secrets
from tests.support.platform_rounds import IMAGE, Rounds
from tests.support.program import Program, run

pytestmark = [pytest.mark.slow, pytest.mark.torch]


@pytest.fixture
async def site(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[tuple[Rounds, Gateway]]:
    """A system and an emulated OpenFaaS, without a bridge."""
    async with platform_rounds.rounds(nats_server, tmp_path) as system:
        write_secrets(tmp_path / "secrets")
        async with running({IMAGE: system.image()}, password=PASSWORD) as gateway:
            yield system, gateway


def settings(gateway: Gateway, **changes: Any) -> Settings:
    defaults = {"gateway": gateway.url, "password": "gateway", "key": "openfaas-key", "ready_s": 240.0}
    return Settings(**{**defaults, **changes})


@contextlib.asynccontextmanager
async def bridged(system: Rounds, gateway: Gateway, clients: int = 3, **changes: Any) -> AsyncIterator[list[str]]:
    """Run a bridge, deploy clients, and yield their ids."""
    async with host(gateway, system.bus, system.folder, **changes) as platform, system.bridge(platform):
        yield await system.deploy(system.file("openfaas", clients, image=IMAGE, key="openfaas-key"))


@contextlib.asynccontextmanager
async def host(gateway: Gateway, bus: Broker, folder: Path, **changes: Any) -> AsyncIterator[ManagedPlatform]:
    async with openfaas.opened(settings(gateway, **changes), SecretStore(folder / "secrets"), bus) as platform:
        yield platform


def counted_once(system: Rounds, clients: list[str]) -> None:
    assert sorted(event.client for event in system.all(UpdateCounted)) == clients


async def test_a_gateway_that_is_down_and_comes_back(site: tuple[Rounds, Gateway]) -> None:
    system, gateway = site
    async with bridged(system, gateway) as clients:
        await gateway.down()

        async def come_back() -> None:
            refused = set[str]()
            async with aclosing(system.sdk.watch()) as events:
                async for progress in events:
                    if isinstance(progress.event, ClientRefused):
                        refused.add(progress.event.client)
                    if refused == set(clients):
                        break
            await gateway.up()

        async with asyncio.TaskGroup() as group:
            group.create_task(come_back())
            await system.train(3)
    assert "out of reach" in system.all(ClientRefused, client=clients[0])[0].reason
    assert not system.all(ClientFailed), "a platform that is away costs no attempt"
    counted_once(system, clients)


async def test_a_bridge_that_starts_while_its_gateway_is_down(site: tuple[Rounds, Gateway]) -> None:
    system, gateway = site
    async with bridged(system, gateway, clients=1) as clients:
        pass
    await gateway.down()
    async with host(gateway, system.bus, system.folder) as platform, system.bridge(platform):
        async with asyncio.TaskGroup() as group:
            training = group.create_task(system.train(1))
            await asyncio.sleep(1)
            await gateway.up()
        assert training.result().counted == tuple(clients)


async def test_a_storm_of_refusals(site: tuple[Rounds, Gateway]) -> None:
    system, gateway = site
    async with bridged(system, gateway) as clients:
        for client in clients:
            gateway.refuse(client, 2)
        await system.train(3)
    for client in clients:
        assert "429" in system.only(ClientRefused, client=client).reason
        assert sum(call.function == client and call.method == "POST" for call in gateway.calls) == 3
    assert not system.all(ClientFailed)
    counted_once(system, clients)


async def test_a_gateway_that_hangs_past_its_timeout(site: tuple[Rounds, Gateway]) -> None:
    system, gateway = site
    async with bridged(system, gateway) as clients:
        gateway.hang(clients[0], 1)
        # Longer than a training takes on a busy machine.
        gateway.upstream_timeout_s = 20.0
        await system.train(3)
    failed = system.all(ClientFailed, client=clients[0])
    assert failed or system.trainings(clients[0]) == 1, "it is asked again, or the function is heard"
    counted_once(system, clients)


async def test_a_training_that_is_killed_once(site: tuple[Rounds, Gateway]) -> None:
    system, gateway = site
    async with bridged(system, gateway) as clients:
        system.misbehave(clients[1], "end once")
        await system.train(3)
    failed = system.only(ClientFailed)
    assert (failed.client, failed.attempt, failed.final) == (clients[1], 1, False)
    assert "TrainerDied: the process was killed by signal SIGKILL (9) during the training" in failed.reason
    assert system.only(UpdateCounted, client=clients[1]).attempt == 2
    counted_once(system, clients)


async def test_a_function_that_always_crashes(site: tuple[Rounds, Gateway]) -> None:
    system, gateway = site
    async with bridged(system, gateway) as clients:
        system.misbehave(clients[2], "crash")
        completed = await system.train(3, quorum=0.6, max_attempts=2)
    assert completed.missing == (clients[2],)
    assert [event.final for event in system.all(ClientFailed, client=clients[2])] == [False, True]
    async with (
        asyncio.timeout(platform_rounds.WITHIN_S),
        system.bus.subscribe(topics.dead("openfaas", clients[2])) as letters,
    ):
        assert clients[2].encode() in await (await anext(letters)).read()
    counted_once(system, clients[:2])


async def test_a_function_that_was_deleted_behind_our_back(site: tuple[Rounds, Gateway]) -> None:
    system, gateway = site
    async with bridged(system, gateway) as clients:
        await gateway.vanish(clients[0])
        await system.train(3)
    assert system.only(ClientRestored).client == clients[0]
    counted_once(system, clients)


async def test_a_task_that_reaches_its_function_twice(site: tuple[Rounds, Gateway]) -> None:
    system, gateway = site
    async with bridged(system, gateway, clients=1) as clients:
        async with asyncio.TaskGroup() as group:
            training = group.create_task(system.train(1))
            async with host(gateway, system.bus, system.folder) as second:
                await _invoked_by(second, system)
        assert training.result().counted == tuple(clients)
    assert system.trainings(clients[0]) == 1
    counted_once(system, clients)


async def _invoked_by(second: ManagedPlatform, system: Rounds) -> None:
    """Send the task of the open round to its function, as another caller would."""
    async with asyncio.timeout(platform_rounds.WITHIN_S):
        async for progress in system.sdk.watch():
            if progress.event.what == "round.opened":
                record = await system.sdk.job(progress.job)
                secret = await system.sdk.broker.get(topics.secret(record.id))
                assert secret is not None
                assert secret.payload is not None
                round_nonce = nonce(secret.payload.decode(), record.id, record.round)
                task = invitations.task_for(record.cohort[0], record, round_nonce)
                assert [activation.state async for activation in second.invoke(task, 1)] == ["called", "succeeded"]
                return


async def test_a_bridge_that_is_killed_with_five_tasks_in_flight(site: tuple[Rounds, Gateway]) -> None:
    system, gateway = site
    file = system.folder / "bridge.toml"
    secrets_line = f'secrets = "{system.folder / "secrets"}"'
    file.write_text(f'{secrets_line}\ngateway = "{gateway.url}"\npassword = "gateway"\nkey = "openfaas-key"\n')
    command = ("bridge", "openfaas", "--config", str(file), "--url", system.url)
    first = await Program(*command, cwd=system.folder).start()
    clients = await system.deploy(system.file("openfaas", 5, image=IMAGE, key="openfaas-key"))
    for client in clients:
        system.misbehave(client, "slow")
    async with asyncio.TaskGroup() as group:
        training = group.create_task(system.train(5))
        await soon(lambda: all(system.trainings(client) for client in clients), platform_rounds.WITHIN_S)
        first.send(signal.SIGKILL)
        await first.wait()
        again = await Program(*command, cwd=system.folder).start()
    assert training.result().counted == tuple(clients)
    again.send(signal.SIGTERM)
    await again.wait()
    assert [system.trainings(client) for client in clients] == [1] * 5, "what trains already is waited for"
    counted_once(system, clients)


async def test_wrong_credentials_end_the_bridge_at_once(site: tuple[Rounds, Gateway]) -> None:
    system, gateway = site
    (system.folder / "secrets" / "gateway").write_text("wrong")
    file = system.folder / "bridge.toml"
    file.write_text(f'secrets = "{system.folder / "secrets"}"\ngateway = "{gateway.url}"\npassword = "gateway"\n')
    code, output = await run("bridge", "openfaas", "--config", str(file), "--url", system.url, cwd=system.folder)
    assert code == 1
    assert "refuses the credentials" in output
    assert "wrong" not in output
    assert "Traceback" not in output
    assert KEY not in output
