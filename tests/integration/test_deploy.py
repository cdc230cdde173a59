"""Functions and clients deployed by messages: again and again, half, edited, removed."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from bridges import Lifecycle
from broker.base import Broker
from client_fn.code import archive
from client_fn.code.archive import Archive
from fedkeeper.deployment import archives, deploying
from fedkeeper.deployment import file as deployment_file
from fedkeeper.deployment.file import DeploymentFile, PlatformSection
from fedkeeper.errors import DeployFailed, NoBridge
from fedkeeper.sdk import Client
from tests.support.fake_platforms import FakeManagedPlatform
from tests.support.fakes import running

FABRIC = """
name = "test"
[data]
deal = { dataset = "mine", clients = 4 }
[platforms.board]
kind = "openfaas"
clients = 1
image = "client:1"
[platforms.cluster]
kind = "openfaas"
clients = 2
image = "client:1"
"""


@pytest.fixture
def file(tmp_path: Path) -> DeploymentFile:
    path = tmp_path / "fabric.toml"
    path.write_text(FABRIC)
    return deployment_file.read(path)


@contextlib.asynccontextmanager
async def two_hosts(bus: Broker) -> AsyncIterator[tuple[FakeManagedPlatform, FakeManagedPlatform]]:
    board, cluster = FakeManagedPlatform("board"), FakeManagedPlatform("cluster")
    async with running(Lifecycle(bus, board.name, board).serve(), Lifecycle(bus, cluster.name, cluster).serve()):
        yield board, cluster


async def deployed(
    sdk: Client, file: DeploymentFile, *, remove: bool = False, code: Archive | None = None
) -> list[str]:
    """Do it; what was done, sorted."""
    desired = [] if remove else await deploying.desired_clients(sdk, file, "nats://here", code=code)
    done: list[str] = []
    steps = await deploying.plan_steps(sdk, file, desired)
    await deploying.apply(sdk, steps, lambda step: done.append(f"{step.action} {step.client[-3:]}"))
    return sorted(done)


def with_board(file: DeploymentFile, **changes: object) -> DeploymentFile:
    board: PlatformSection = msgspec.structs.replace(file.platforms["board"], **changes)
    return msgspec.structs.replace(file, platforms={**file.platforms, "board": board})


async def test_a_second_time_nothing_is_left_to_do(bus: Broker, sdk: Client, file: DeploymentFile) -> None:
    async with two_hosts(bus) as (board, cluster):
        first = await deployed(sdk, file)
        assert await deployed(sdk, file) == []
    assert first == [f"{action} 00{i}" for action in ("create", "register") for i in range(3)]
    assert (len(board.functions), len(cluster.functions)) == (1, 2)
    clients = await sdk.clients()
    assert [(client.platform, client.url) for client in clients] == [
        ("board", f"fake/{clients[0].id}"),
        ("cluster", f"fake/{clients[1].id}"),
        ("cluster", f"fake/{clients[2].id}"),
    ]


async def test_an_edit_changes_only_what_differs(bus: Broker, sdk: Client, file: DeploymentFile) -> None:
    async with two_hosts(bus) as (board, _):
        await deployed(sdk, file)
        assert await deployed(sdk, with_board(file, image="client:2")) == ["update 000"]
        assert [function.image for function in board.functions.values()] == ["client:2"]
        assert await deployed(sdk, with_board(file, image="client:2", at="/moved")) == ["change 000"]


async def test_changed_code_updates_the_functions_that_get_it(
    bus: Broker, sdk: Client, file: DeploymentFile, tmp_path: Path
) -> None:
    sent = with_board(file, package=True)
    module = tmp_path / "mine.py"
    async with two_hosts(bus) as (board, _):
        await deployed(sdk, sent)
        module.write_text("VERSION = 1\n", encoding="utf-8")
        assert await deployed(sdk, sent, code=archive.pack(module)) == ["update 000"]
        assert await deployed(sdk, sent, code=archive.pack(module)) == []
        module.write_text("VERSION = 2\n", encoding="utf-8")
        assert await deployed(sdk, sent, code=archive.pack(module)) == ["update 000"]
        (function,) = board.functions.values()
    assert function.package is not None
    content = await bus.get(function.package.topic)
    assert content is not None
    assert content.payload == archives.build("openfaas", archive.pack(module))


async def test_fewer_clients_are_removed_and_moved_ones_stay_registered(
    bus: Broker, sdk: Client, file: DeploymentFile
) -> None:
    async with two_hosts(bus) as (board, cluster):
        await deployed(sdk, file)
        # The cluster's two clients are the deal's first two now.
        done = await deployed(sdk, with_board(file, clients=0))
        assert done == ["change 000", "create 000", "delete 000", "delete 002", "unregister 002"]
        assert (len(board.functions), len(cluster.functions)) == (0, 2)
        assert {client.platform for client in await sdk.clients()} == {"cluster"}


async def test_a_failed_deployment_is_reported_and_the_next_one_completes_it(
    bus: Broker, sdk: Client, file: DeploymentFile
) -> None:
    async with two_hosts(bus) as (board, cluster):
        cluster.full = True
        with pytest.raises(DeployFailed, match="no room") as failed:
            await deployed(sdk, file)
        assert len(failed.value.failures) == 2
        assert len(board.functions) == len(await sdk.clients()) == 1
        cluster.full = False
        assert await deployed(sdk, file) == ["create 001", "create 002", "register 001", "register 002"]


async def test_removing_a_deployment_removes_only_its_own_functions_and_clients(
    bus: Broker, sdk: Client, file: DeploymentFile
) -> None:
    async with two_hosts(bus) as (board, cluster):
        await deployed(sdk, file)
        foreign = msgspec.structs.replace(next(iter(board.functions.values())), name="foreign", fabric="another")
        board.functions["foreign"] = foreign
        assert len(await deployed(sdk, file, remove=True)) == 6
        assert await deployed(sdk, file, remove=True) == []
        assert list(board.functions) == ["foreign"]
        assert cluster.functions == {}
        assert await sdk.clients() == []


async def test_a_platform_without_a_bridge_is_named(sdk: Client) -> None:
    with pytest.raises(NoBridge, match="no bridge answered for platform 'nowhere'"):
        await sdk.request_functions("nowhere", "list", timeout_s=0.3)


async def test_platforms_are_asked_at_the_same_time_and_all_that_are_silent_are_named(
    bus: Broker, sdk: Client, file: DeploymentFile
) -> None:
    silent = msgspec.structs.replace(
        file, platforms={**file.platforms, "site": file.platforms["board"], "cloud": file.platforms["board"]}
    )
    async with two_hosts(bus):
        with pytest.raises(NoBridge) as raised:
            await deploying.plan_steps(sdk, silent, [], timeout_s=0.5)
    assert raised.value.platforms == ("cloud", "site")
    assert "no bridge answered for the platforms 'cloud', 'site' within 0.5 s" in str(raised.value)
    assert "are they running?" in str(raised.value)
