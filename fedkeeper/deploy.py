"""Makes a fabric what its file says: functions on every platform, clients in the register (paper, section 3.2)."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import structlog

from broker import topics
from broker.messages.function import Deployed, Function
from broker.messages.register import ClientRecord
from broker.messages.round import BlobRef
from client_fn.data import datasets, shards
from fedkeeper import archives, fabric_file
from fedkeeper.errors import DeployFailed
from fedkeeper.fabric_file import DeploymentFile
from fedkeeper.plan import Step, Wanted, entry, plan
from fedkeeper.sdk import Client

log = structlog.get_logger(__name__)

AT_ONCE: Final = 8
"""How many clients are seen to at the same time."""

LIST_S: Final = 30.0
CREATE_S: Final = 900.0
"""A cloud builds a function for minutes."""

Tell = Callable[[Step], None]


async def needed(fabric: Client, file: DeploymentFile, wanted: list[Wanted]) -> list[list[Step]]:
    """What there is to do, by client.

    Args:
        fabric: where the bridges and the register are reached.
        file: names the fabric and its platforms.
        wanted: its clients; none removes everything.

    Raises:
        NoBridge: a platform's bridge does not answer.
        DeployFailed: a platform can't list its functions.
    """
    register = await fabric.clients()
    platforms = set(file.platforms) | {
        client.platform for client in register if client.labels.get(fabric_file.FABRIC_LABEL) == file.name
    }
    deployed = {platform: await listed(fabric, platform) for platform in sorted(platforms)}
    return plan(wanted, deployed, register, fabric=file.name)


async def listed(fabric: Client, platform: str) -> tuple[Deployed, ...]:
    """The functions that a platform has.

    Raises:
        NoBridge: its bridge does not answer.
        DeployFailed: it can't list them.
    """
    reply = await fabric.ask(platform, "list", timeout_s=LIST_S)
    if reply.error:
        raise DeployFailed({platform: reply.error})
    return reply.functions


async def apply(fabric: Client, steps: Iterable[list[Step]], on_done: Tell) -> None:
    """Do it, each client's steps one after the other; what fails does not keep the others from being done.

    Args:
        fabric: where the bridges and the register are reached.
        steps: of `needed`.
        on_done: told of each step when it is done.

    Raises:
        DeployFailed: some clients are not as they should be; running it again goes on from there.
    """
    failures: dict[str, str] = {}
    turn = asyncio.Semaphore(AT_ONCE)

    async def see_to(one: list[Step]) -> None:
        async with turn:
            failure = await _see_to(fabric, one, on_done)
            if failure:
                failures[one[0].client] = failure

    async with asyncio.TaskGroup() as group:
        for one in steps:
            group.create_task(see_to(one), name=f"deploy {one[0].client}")
    if failures:
        raise DeployFailed(failures)


async def _see_to(fabric: Client, steps: list[Step], on_done: Tell) -> str:
    """Do a client's steps; returns why one of them failed, or nothing."""
    made: Deployed | None = None
    for step in steps:
        match step:
            case Step(action="create" | "update", wanted=Wanted(function=function)):
                reply = await fabric.ask(step.platform, "create", timeout_s=CREATE_S, function=function)
                made = reply.functions[0] if reply.functions else None
                error = reply.error
            case Step(action="delete"):
                error = (await fabric.ask(step.platform, "delete", timeout_s=CREATE_S, name=step.client)).error
            case Step(wanted=Wanted(record=record)):
                known = await fabric.client(step.client)
                await fabric.register([entry(record, known, made)])
                error = ""
            case _:
                await fabric.unregister(step.client)
                error = ""
        if error:
            return error
        on_done(step)
    return ""


async def wanted(fabric: Client, file: DeploymentFile, url: str, data_dir: Path | None = None) -> list[Wanted]:
    """Every client of a fabric as it should be; puts its packages with the broker, and stages its data if it says so.

    Args:
        fabric: where packages are put.
        file: says it all.
        url: how this command reaches the broker.
        data_dir: where the datasets' own files are; None: see `client_fn.data.datasets`.

    Raises:
        ClientError: the data can't be staged.
    """
    samples = await asyncio.to_thread(stage, file, data_dir) if file.data.stage else {}
    packages = {platform: await _package(fabric, file, platform) for platform in file.platforms}
    return [
        Wanted(function(file, record, packages[record.platform], url), record)
        for record in fabric_file.records(file, samples)
    ]


def function(file: DeploymentFile, record: ClientRecord, code: BlobRef | None, url: str) -> Function:
    """A client's function as its fabric file says."""
    hosting = file.platforms[record.platform]
    return Function(
        name=record.id,
        fabric=file.name,
        broker=file.broker.url or url,
        password=file.broker.password,
        key=hosting.key,
        image=hosting.image,
        package=code,
        env=hosting.env,
        memory_mb=hosting.memory_mb,
        timeout_s=hosting.timeout_s,
        options=hosting.options,
    )


def stage(file: DeploymentFile, data_dir: Path | None) -> dict[str, int]:
    """Deal the data and write each client's shard to its place; returns their sizes.

    Raises:
        ClientError: the dataset is not there, can't be dealt like that, or a shard can't be written.
    """
    deal = file.data.deal
    places = {client: file.platforms[platform].at or file.data.at for client, platform in fabric_file.homes(file)}
    dataset = datasets.load(deal.dataset, data_dir=data_dir)
    return {record.id: record.samples for record in shards.stage(dataset, deal, places, platform="")}


async def _package(fabric: Client, file: DeploymentFile, platform: str) -> BlobRef | None:
    kind, hosting = fabric_file.kind_of(file, platform), file.platforms[platform]
    usual = kind.sends_archive and kind.files != ""
    if not (usual if hosting.package is None else hosting.package):
        return None
    code = await asyncio.to_thread(archives.build, kind.name)
    digest = hashlib.sha256(code).hexdigest()
    ref = BlobRef(topics.package(digest), digest, len(code))
    await fabric.broker.put(ref.topic, code)
    return ref
