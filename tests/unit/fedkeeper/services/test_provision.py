"""A job that waits for a built-in dataset's clients gets them; other jobs keep waiting."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import broker
from broker import topics
from broker.errors import Disconnected
from broker.messages import codec, progress
from broker.messages.job import Job
from broker.messages.job_record import JobRecord, Phase
from broker.messages.job_sections import Cohort, Data
from broker.messages.progress import JobWaiting, Progress
from broker.messages.register import ClientRecord
from client_fn.errors import BadData
from fedkeeper.sdk import Client
from fedkeeper.services.provision import provision, stage_dataset
from tests.support.shard_files import read_shard

DIGITS = Data(clients=3)


@pytest.fixture
async def sdk() -> AsyncIterator[Client]:
    async with asyncio.timeout(120), broker.connect("memory://provision", ack_wait_s=0.5) as bus:
        yield Client(bus)


async def add_waiting_job(sdk: Client, job_id: str, data: Data, phase: Phase = "running") -> None:
    """Store a job's record and publish that the job waits."""
    record = JobRecord(id=job_id, job=Job(data=data, cohort=Cohort(clients=data.clients)), phase=phase)
    await sdk.broker.put(topics.job_record(job_id), codec.encode(record))
    await publish_waiting(sdk, job_id)


async def publish_waiting(sdk: Client, job_id: str) -> None:
    event = JobWaiting(reason="", data="", have=0, need=3, until_s=1.0)
    payload = progress.encode(Progress(job_id, event, 1.0, f"{job_id}.waiting"))
    await sdk.broker.publish(progress.topic_of(job_id, event), payload)


async def provisioned(sdk: Client, folder: Path, data: Data) -> list[ClientRecord]:
    """Run `provision` until all clients of that data are registered; return the register."""
    missing = {topics.client(f"{data.key}-{number:03}") for number in range(data.clients)}
    missing -= {topics.client(client.id) for client in await sdk.clients()}
    async with asyncio.TaskGroup() as group:
        work = provision(sdk, platform="local", shards_at=str(folder), data_dir=None)
        working = group.create_task(work, name="provision")
        async with sdk.broker.watch(topics.client(topics.ANY)) as values:
            while missing:
                missing.discard((await anext(values)).topic)
        working.cancel()
    return await sdk.clients()


async def test_a_waiting_job_gets_its_clients(sdk: Client, tmp_path: Path) -> None:
    await add_waiting_job(sdk, "demo", DIGITS)
    clients = await provisioned(sdk, tmp_path, DIGITS)
    assert [client.id for client in clients] == [f"{DIGITS.key}-00{number}" for number in range(3)]
    assert {(client.platform, client.labels["data"], client.paused) for client in clients} == {
        ("local", DIGITS.key, False)
    }
    for client in clients:
        x, y = await asyncio.to_thread(read_shard, client.data_loc)
        assert client.data_loc.startswith(tmp_path.as_uri())
        assert len(x) == len(y) == client.samples > 400


async def test_clients_of_another_platform_stay_there(sdk: Client, tmp_path: Path) -> None:
    elsewhere = ClientRecord(id=f"{DIGITS.key}-000", platform="edge", labels={"data": DIGITS.key})
    await sdk.register([elsewhere])
    await add_waiting_job(sdk, "demo", DIGITS)
    await provisioned(sdk, tmp_path, DIGITS)
    clients = await sdk.clients()
    assert clients[0] == elsewhere
    assert [client.platform for client in clients] == ["edge", "local", "local"]


async def test_jobs_without_a_built_in_dataset_and_ended_jobs_are_skipped(sdk: Client, tmp_path: Path) -> None:
    await add_waiting_job(sdk, "foreign", Data(dataset="hospital", clients=3))
    await add_waiting_job(sdk, "over", Data(clients=4), phase="cancelled")
    await add_waiting_job(sdk, "impossible", Data(clients=5000))
    await publish_waiting(sdk, "unknown")
    for garbage in (b"garbage", b"\xff"):
        await sdk.broker.publish(topics.progress("demo", "job", "waiting"), garbage)
    await add_waiting_job(sdk, "demo", DIGITS)
    clients = await provisioned(sdk, tmp_path, DIGITS)
    assert {client.labels["data"] for client in clients} == {DIGITS.key}


async def test_a_job_that_reports_waiting_twice_gets_its_clients_once(sdk: Client, tmp_path: Path) -> None:
    await add_waiting_job(sdk, "demo", DIGITS)
    await publish_waiting(sdk, "demo")
    other = Data(clients=2, partition="iid")
    await add_waiting_job(sdk, "other", other)
    clients = await provisioned(sdk, tmp_path, other)
    assert [client.labels["data"] for client in clients] == [other.key] * 2 + [DIGITS.key] * 3


def test_staging_twice_gives_the_same_clients(tmp_path: Path) -> None:
    first = stage_dataset(DIGITS, platform="edge", shards_at=str(tmp_path), data_dir=None)
    assert stage_dataset(DIGITS, platform="edge", shards_at=str(tmp_path), data_dir=None) == first
    assert {client.platform for client in first} == {"edge"}


def test_more_clients_than_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData):
        stage_dataset(Data(clients=5000), platform="local", shards_at=str(tmp_path), data_dir=None)
    assert list(tmp_path.iterdir()) == []


async def test_a_job_gets_its_clients_after_the_broker_was_lost(
    sdk: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose_broker(_: list[ClientRecord]) -> None:
        raise Disconnected("gone")

    await add_waiting_job(sdk, "demo", DIGITS)
    with monkeypatch.context() as patched:
        patched.setattr(sdk, "register", lose_broker)
        with pytest.raises(Disconnected):
            await provision(sdk, platform="local", shards_at=str(tmp_path), data_dir=None)
    assert len(await provisioned(sdk, tmp_path, DIGITS)) == 3
