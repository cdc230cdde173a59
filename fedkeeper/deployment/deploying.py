"""Deploys a fabric: creates functions on every platform and registers their clients (paper, section 3.2)."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from broker import topics
from broker.messages.function import Deployed, Function
from broker.messages.register import ClientRecord
from broker.messages.round import BlobRef
from broker.support.tasks import task_group
from client_fn.code.archive import Archive
from client_fn.data import datasets, shards
from fedkeeper.deployment import archives
from fedkeeper.deployment import file as deployment_file
from fedkeeper.deployment.file import DeploymentFile
from fedkeeper.deployment.plan import DesiredClient, Step, plan, register_entry
from fedkeeper.errors import DeployFailed, NoBridge
from fedkeeper.sdk import Client

CONCURRENCY: Final = 8
"""How many clients are deployed at the same time."""

LIST_S: Final = 30.0
"""Longest time to list the functions of a platform. Seconds."""

PLAN_S: Final = 5.0
"""As LIST_S, where nothing is to be done: a person wants to know which bridges are there."""

CREATE_S: Final = 900.0
"""Longest time to create or delete a function. A cloud builds a function for minutes."""


async def desired_clients(
    sdk: Client, file: DeploymentFile, url: str, data_dir: Path | None = None, code: Archive | None = None
) -> list[DesiredClient]:
    """Return every client that the deployment file describes. Publishes code archives and stages data if needed.

    Args:
        sdk: the system that gets the archives.
        file: the deployment file.
        url: the broker's address that this command uses, for functions if the file names none.
        data_dir: folder of the datasets' files; None: the default of `client_fn.data.datasets`.
        code: the user's code; None: there is none.

    Raises:
        BadConfigFile: the file must say how functions reach the broker.
        ClientError: the data can't be staged, or a line of the code's requirements.txt can't be used in an archive.
        BadPlatform: the files of a kind of platform do not exist.
    """
    address = deployment_file.functions_url(file, url)
    samples = await asyncio.to_thread(stage_shards, file, data_dir) if file.data.stage else {}
    packages = {platform: await _publish_package(sdk, file, platform, code) for platform in file.platforms}
    return [
        DesiredClient(make_function(file, record, packages[record.platform], address), record)
        for record in deployment_file.client_records(file, samples)
    ]


async def plan_steps(
    sdk: Client, file: DeploymentFile, clients: list[DesiredClient], *, timeout_s: float = LIST_S
) -> list[list[Step]]:
    """Return the steps of the deployment, grouped by client.

    Args:
        sdk: the system whose bridges and register are read.
        file: names the fabric and its platforms.
        clients: the desired clients; an empty list removes everything.
        timeout_s: how long to wait for the bridges, which are asked at the same time. Seconds.

    Raises:
        NoBridge: bridges of some platforms do not answer; all of them are named.
        DeployFailed: a platform can't list its functions.
    """
    register = await sdk.clients()
    platforms = set(file.platforms) | {
        client.platform for client in register if client.labels.get(deployment_file.FABRIC_LABEL) == file.name
    }
    deployed = await _list_all(sdk, sorted(platforms), timeout_s)
    return plan(clients, deployed, register, fabric=file.name)


async def _list_all(sdk: Client, platforms: list[str], timeout_s: float) -> dict[str, tuple[Deployed, ...]]:
    """Ask every platform at the same time for its functions."""
    deployed: dict[str, tuple[Deployed, ...]] = {}
    silent: list[str] = []
    failures: dict[str, str] = {}

    async def ask(platform: str) -> None:
        try:
            deployed[platform] = await list_functions(sdk, platform, timeout_s=timeout_s)
        except NoBridge:
            silent.append(platform)
        except DeployFailed as exc:
            failures.update(exc.failures)

    async with task_group() as group:
        for platform in platforms:
            group.create_task(ask(platform), name=f"list the functions of {platform}")
    if silent:
        raise NoBridge(sorted(silent), "list", timeout_s)
    if failures:
        raise DeployFailed(failures)
    return deployed


async def apply(sdk: Client, steps: Iterable[list[Step]], on_done: Callable[[Step], None]) -> None:
    """Execute the steps: clients in parallel, each client's steps in order. A failure stops only its own client.

    Args:
        sdk: the system whose bridges and register are reached.
        steps: the steps, grouped by client.
        on_done: called after each step.

    Raises:
        DeployFailed: steps of some clients failed; a second deployment continues from there.
    """
    failures: dict[str, str] = {}
    semaphore = asyncio.Semaphore(CONCURRENCY)

    async def deploy_client(client_steps: list[Step]) -> None:
        async with semaphore:
            error = await _execute(sdk, client_steps, on_done)
            if error:
                failures[client_steps[0].client] = error

    async with asyncio.TaskGroup() as group:
        for client_steps in steps:
            group.create_task(deploy_client(client_steps), name=f"deploy {client_steps[0].client}")
    if failures:
        raise DeployFailed(failures)


async def list_functions(sdk: Client, platform: str, *, timeout_s: float = LIST_S) -> tuple[Deployed, ...]:
    """Return the functions that exist on a platform.

    Args:
        sdk: the system that the platform's bridge is connected to.
        platform: the platform's name.
        timeout_s: how long to wait for the bridge. Seconds.

    Raises:
        NoBridge: the platform's bridge does not answer.
        DeployFailed: the platform can't list its functions.
    """
    reply = await sdk.request_functions(platform, "list", timeout_s=timeout_s)
    if reply.error:
        raise DeployFailed({platform: reply.error})
    return reply.functions


def make_function(file: DeploymentFile, record: ClientRecord, package: BlobRef | None, url: str) -> Function:
    """Return the function of a client.

    Args:
        file: the deployment file.
        record: the client's entry for the register.
        package: the published code archive; None: the platform has the code.
        url: the broker's address for functions; empty: they have no route to it.
    """
    section = file.platforms[record.platform]
    return Function(
        name=record.id,
        fabric=file.name,
        broker=url,
        password=file.broker.password,
        key=section.key,
        image=section.image,
        package=package,
        env=section.env,
        memory_mb=section.memory_mb,
        timeout_s=section.timeout_s,
        options=section.options,
    )


def stage_shards(file: DeploymentFile, data_dir: Path | None) -> dict[str, int]:
    """Partition the dataset and write each client's shard; return the number of samples by client id.

    Args:
        file: the deployment file.
        data_dir: folder of the datasets' files; None: the default of `client_fn.data.datasets`.

    Raises:
        ClientError: the dataset is missing, it has too few samples, or a shard can't be written.
    """
    data = file.data.deal
    folders = {
        client: file.platforms[platform].at or file.data.at for client, platform in deployment_file.placements(file)
    }
    dataset = datasets.load(data.dataset, data_dir=data_dir)
    return {record.id: record.samples for record in shards.stage(dataset, data, folders, platform="")}


async def _execute(sdk: Client, steps: list[Step], on_done: Callable[[Step], None]) -> str:
    """Execute a client's steps; return the first failure, or an empty text."""
    created: Deployed | None = None
    for step in steps:
        error = ""
        match step:
            case Step(action="create" | "update", desired=DesiredClient(function=function)):
                reply = await sdk.request_functions(step.platform, "create", timeout_s=CREATE_S, function=function)
                created = reply.functions[0] if reply.functions else None
                error = reply.error
            case Step(action="delete"):
                reply = await sdk.request_functions(step.platform, "delete", timeout_s=CREATE_S, name=step.client)
                error = reply.error
            case Step(desired=DesiredClient(record=record)):
                current = await sdk.client(step.client)
                await sdk.register([register_entry(record, current, created)])
            case _:
                await sdk.unregister(step.client)
        if error:
            return error
        on_done(step)
    return ""


async def _publish_package(sdk: Client, file: DeploymentFile, platform: str, code: Archive | None) -> BlobRef | None:
    """Publish the code archive of a platform's functions; None if the platform takes none."""
    if not deployment_file.has_archive(file, platform):
        return None
    archive = await asyncio.to_thread(archives.build, deployment_file.kind_of(file, platform).name, code)
    digest = hashlib.sha256(archive).hexdigest()
    ref = BlobRef(topics.package(digest), digest, len(archive))
    await sdk.broker.put(ref.topic, archive)
    return ref
