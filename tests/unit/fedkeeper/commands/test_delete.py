"""`fedkeeper delete`, `prune` and `jobs -v`: what is deleted is said with its size, and a mistake deletes nothing."""

import json
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.errors import ConnectFailed
from broker.messages import codec
from broker.messages.job_record import JobRecord
from broker.messages.round import BlobRef
from fedkeeper.commands import delete, jobs
from fedkeeper.errors import BadOption, JobNotFinished, NoSuchJob
from fedkeeper.sdk import Client
from server.retention import Retention
from tests.support import fakes
from tests.support.command import call

DAY_S = 86_400.0
MODEL = 1_500_000


@pytest.fixture
async def bus(memory_url: str) -> AsyncIterator[Broker]:
    """A broker with jobs that ended 1, 20 and 40 days ago, and one that runs."""
    async with broker.connect(memory_url) as connection:
        for name, days in (("new", 1), ("older", 20), ("oldest", 40)):
            ended_s = time.time() - days * DAY_S
            await put_job(connection, name, ended_s=ended_s, phase="completed", announced=True)
        await put_job(connection, "running", phase="running")
        yield connection


async def put_job(bus: Broker, name: str, **facts: Any) -> None:
    model = BlobRef(topics.model(name, "ab" * 32), "ab" * 32, MODEL)
    await bus.put(model.topic, b"model")
    record = JobRecord(id=name, job=fakes.job(name), model=model, **facts)
    await bus.put(topics.job_record(name), codec.encode(record))


async def left(bus: Broker) -> set[str]:
    """Return the ids of the jobs that have a record or a model."""
    records = await bus.snapshot(topics.job_record(topics.ANY))
    models = await bus.stored_topics(topics.ALL_MODELS)
    return {topic.split(".")[2] for topic in (*records, *models)}


async def test_what_is_deleted_is_said_with_its_size(
    bus: Broker, memory_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await call(delete.delete, ["new", "oldest"], url=memory_url)
    said = capsys.readouterr()
    assert said.out == "deleted new  1.5 MB\ndeleted oldest  1.5 MB\n"
    assert "2 jobs, 3.0 MB of models" in said.err
    assert await left(bus) == {"older", "running"}


async def test_a_mistake_in_one_id_deletes_nothing(bus: Broker, memory_url: str) -> None:
    with pytest.raises(NoSuchJob, match="'nwe'"):
        await call(delete.delete, ["new", "nwe"], url=memory_url)
    with pytest.raises(JobNotFinished, match="job running has not ended; cancel it"):
        await call(delete.delete, ["new", "running"], url=memory_url)
    assert await left(bus) == {"new", "older", "oldest", "running"}


async def test_prune_says_what_it_would_delete_and_then_deletes_it(
    bus: Broker, memory_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await call(delete.prune, older="30d", keep=1, dry_run=True, url=memory_url)
    said = capsys.readouterr()
    assert said.out == "would delete oldest  1.5 MB\nwould delete older  1.5 MB\n"
    assert "nothing was deleted" in said.err
    assert await left(bus) == {"new", "older", "oldest", "running"}
    await call(delete.prune, older="30d", url=memory_url, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["job"], document["bytes"], document["dry_run"]) == ("oldest", MODEL, False)
    assert await left(bus) == {"new", "older", "running"}
    await call(delete.prune, older="30d", url=memory_url)
    assert "nothing to delete: 2 finished jobs are kept" in capsys.readouterr().err


async def test_an_error_at_the_second_job_leaves_the_line_of_the_first(
    bus: Broker, memory_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = Client.remove_job

    async def lose_the_broker(sdk: Client, job: str) -> None:
        if job == "older":
            raise ConnectFailed("nats://h:1", "refused")
        await remove(sdk, job)

    monkeypatch.setattr(Client, "remove_job", lose_the_broker)
    with pytest.raises(ConnectFailed):
        await call(delete.delete, ["new", "older"], url=memory_url, as_json=True)
    assert json.loads(capsys.readouterr().out)["job"] == "new"
    assert await left(bus) == {"older", "oldest", "running"}


def test_the_limits_of_prune() -> None:
    endless = delete._ANY_NUMBER
    assert delete.limits_of("12h", None) == Retention(0.5, endless, endless)
    assert delete.limits_of("14d", 3) == Retention(14.0, 3, endless)
    assert delete.limits_of("", 0) == Retention(math.inf, 0, endless)
    with pytest.raises(BadOption, match="--older = '30': expected a number and"):
        delete.limits_of("30", None)
    with pytest.raises(BadOption, match="give --older 30d, --keep 20, or both"):
        delete.limits_of("", None)


async def test_jobs_shows_sizes(
    bus: Broker,  # noqa: ARG001 (has the jobs)
    memory_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await call(jobs.jobs, url=memory_url, verbose=True)
    assert capsys.readouterr().out.count("1.5 MB") == 4
