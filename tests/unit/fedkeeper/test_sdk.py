"""What the SDK says to a program that asks for what is not there, or gives what is no job."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import broker
import fedkeeper
from broker import topics
from broker.messages import codec
from broker.messages.errors import JobError, NoSuchModel
from broker.messages.job import Job
from broker.messages.job_record import JobRecord
from broker.messages.job_sections import Model, Stop, Training
from broker.messages.progress import RoundCompleted
from fedkeeper import broker_note, configs
from fedkeeper.errors import BadOption, Missing, NoModelYet, NoSuchJob
from fedkeeper.sdk import Client
from server import models
from tests.support.events import EVENTS

(COMPLETED,) = (event for event in EVENTS if isinstance(event, RoundCompleted))


@pytest.fixture
async def sdk(memory_url: str) -> AsyncIterator[Client]:
    async with broker.connect(memory_url) as bus:
        yield Client(bus)


async def put(sdk: Client, record: JobRecord) -> None:
    await sdk.broker.put(topics.job_record(record.id), codec.encode(record))


async def test_a_job_without_a_completed_round_has_no_model_yet(sdk: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoSuchJob, match="no job has the id 'mine'"):
        await sdk.model("mine")
    record = JobRecord(id="mine", job=Job(), model=COMPLETED.model)
    await put(sdk, record)
    with pytest.raises(NoModelYet, match="job mine has no model yet: it has not begun"):
        await sdk.model("mine")
    await put(sdk, replace(record, phase="running", round=1))
    with pytest.raises(NoModelYet, match="round 1 is open") as none:
        await sdk.model("mine", "best")
    assert (none.value.job, none.value.round) == ("mine", 1)
    await put(sdk, replace(record, phase="failed", round=3))
    with pytest.raises(NoModelYet, match="job mine has no model: it failed before a round was completed"):
        await sdk.model("mine")
    await put(sdk, replace(record, phase="cancelled", round=3))
    with pytest.raises(NoModelYet, match="job mine has no model: it was cancelled before a round was completed"):
        await sdk.model("mine")

    async def read(_: Any, which: JobRecord, name: object) -> bytes:
        return f"{which.id} {name}".encode()

    monkeypatch.setattr(models, "read", read)
    assert await sdk.model("mine", 0) == b"mine 0", "who asks for the initial model gets it"
    await put(sdk, replace(record, phase="running", round=2, last=COMPLETED))
    assert await sdk.model("mine") == b"mine last"


async def test_a_round_whose_model_is_not_kept_is_named(sdk: Client) -> None:
    await put(sdk, JobRecord(id="mine", job=Job(), model=COMPLETED.model, last=COMPLETED, round=COMPLETED.round))
    with pytest.raises(NoSuchModel, match="job mine does not keep the model of round 77, but those of "):
        await sdk.model("mine", 77)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Job(name="Bad Name"), "name = 'Bad Name': use 1 to 40 of a-z, 0-9 and '-'"),
        ({"id": "Bad Id"}, "id = 'Bad Id': use 1 to 40"),
        ({"stop": {"rouns": 1}}, "stop.rouns = 1: no such key; did you mean 'rounds'?"),
        (Job(training=Training(learning_rate=float("nan"))), "training.learning_rate = nan: expected a number > 0"),
        (Job(model=Model(args={"act": print})), "a job has numbers, texts, lists and tables, and no builtin"),
        (Job(seed="one"), "seed = 'one': expected a whole number"),  # type: ignore[arg-type]
    ],
)
async def test_a_wrong_job_is_refused_before_anything_is_sent(sdk: Client, spec: Any, message: str) -> None:
    with pytest.raises(JobError) as refused:
        await sdk.submit(spec, timeout_s=0.01)
    assert str(refused.value).startswith(message)


async def test_what_is_no_job_is_refused_in_words(sdk: Client) -> None:
    for wrong in (5, ["quickstart"], None):
        with pytest.raises(TypeError, match=r"a job is a fedkeeper\.Job, a mapping .* or the path or name of a job"):
            await sdk.submit(wrong, timeout_s=0.01)  # type: ignore[arg-type]
    with pytest.raises(Missing, match="no job file 'quikstart'"):
        await sdk.submit("quikstart", timeout_s=0.01)


def test_a_job_can_be_given_in_several_forms(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("name = 'mine'\n[stop]\nrounds = 3\n")
    wanted = configs.job_of(Job(name="mine", stop=Stop(rounds=3)))
    assert configs.job_of(tmp_path / "job.toml") == configs.job_of(str(tmp_path / "job.toml")) == wanted
    assert configs.job_of({"name": "mine", "stop": Stop(rounds=3)}) == wanted
    assert configs.job_of({"name": "mine", "stop": {"rounds": np.int64(3)}}) == wanted
    assert configs.job_of("quickstart") == configs.read_job("quickstart")
    assert configs.job_of(Job(model=Model(args={"size": (1, 2)}))).model.args["size"] == [1, 2], (
        "as the server reads it"
    )


async def test_connect_finds_the_broker_as_the_commands_do(
    memory_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDKEEPER_URL", raising=False)
    with pytest.raises(BadOption, match="which broker"):
        async with fedkeeper.connect():
            pass
    async with broker.connect(memory_url) as bus:
        await put(Client(bus), JobRecord(id="mine", job=Job()))
        monkeypatch.setenv("FEDKEEPER_URL", memory_url)
        async with fedkeeper.connect() as client:
            assert (await client.job("mine")).id == "mine"
        monkeypatch.delenv("FEDKEEPER_URL")
        broker_note.URL_FILE.parent.mkdir()
        broker_note.URL_FILE.write_text(memory_url)
        async with fedkeeper.connect() as client:
            assert (await client.job("mine")).id == "mine"
