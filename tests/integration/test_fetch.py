"""What a job has brought can be had at any time: `fedkeeper fetch`, `watch --out`, and the end of a job that fails."""

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import broker
from broker import topics
from broker.base import Broker
from broker.messages import job_file as jobs
from broker.messages import tensors
from broker.messages.errors import NoSuchModel
from broker.messages.progress import RoundCompleted
from broker.messages.round import RoundTask
from fedkeeper.commands import fetch, watch
from fedkeeper.errors import BadOption, FedKeeperError
from fedkeeper.runs import follow, model_file
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.command import call
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.job_progress import WITHIN_S, watch_to_end


@pytest.fixture
async def bus(memory_url: str) -> AsyncIterator[Broker]:
    async with broker.connect(memory_url) as connection:
        await Client(connection).register(fakes.clients(4))
        yield connection


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs"


async def train(bus: Broker, **sections: Any) -> str:
    """Train a job to its end and return its id."""
    sdk = Client(bus)
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        job = await sdk.submit(fakes.job(**sections))
        await watch_to_end(sdk, job)
        async with asyncio.timeout(WITHIN_S):
            while not (await sdk.job(job)).is_finished:  # noqa: ASYNC110 (no event says so)
                await asyncio.sleep(0.01)
    return job


def rows(folder: Path, name: str = "metrics") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


async def test_everything_of_an_ended_job_is_fetched(
    bus: Broker, memory_url: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = await train(bus, stop={"rounds": 3}, evaluation={"best": "accuracy"}, model={"keep_every": 1})
    capsys.readouterr()
    await call(fetch.fetch, job, out=out, url=memory_url)
    folder = (out / "latest").resolve()
    said = capsys.readouterr()
    assert said.out == f"{out / folder.name / 'model.safetensors'}\n"
    assert {path.name for path in folder.iterdir()} == {
        *("model.safetensors", "best.safetensors", "metrics.jsonl", "clients.jsonl", "job.toml", "accuracy.png"),
        "ended.json",
    }
    assert [row["round"] for row in rows(folder)] == [1, 2, 3]
    times = [row["time_s"] for row in rows(folder)]
    assert times == sorted(times)
    assert times[0] > 1e9
    assert len(rows(folder, "clients")) == 12
    record = await Client(bus).job(job)
    assert record.model is not None
    assert record.model.sha256 in said.err

    await call(fetch.fetch, job, round_=2, out=out, url=memory_url, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["files"] == ["round-2.safetensors"]
    assert (
        model_file.verified(folder / "round-2.safetensors")["sha256"] == document["sha256"] == rows(folder)[1]["model"]
    )
    await call(fetch.fetch, job, best=True, out=out, url=memory_url)
    assert capsys.readouterr().out.endswith("best.safetensors\n")
    with pytest.raises(NoSuchModel, match="round 9"):
        await call(fetch.fetch, job, round_=9, out=out, url=memory_url)


async def test_a_model_s_file_says_what_it_is_and_can_be_verified(bus: Broker, memory_url: str, out: Path) -> None:
    job = await train(bus)
    await call(fetch.fetch, job, out=out, url=memory_url)
    path = out / "latest" / "model.safetensors"
    named, table = tensors.decode(path.read_bytes())
    record = await Client(bus).job(job)
    assert record.model is not None
    assert (table["job"], table["round"], table["sha256"]) == (job, "2", record.model.sha256)
    assert json.loads(table["model"])["type"] == "nn"
    assert json.loads(table["data"])["dataset"] == "own"
    assert hashlib.sha256(tensors.encode(named)).hexdigest() == record.model.sha256
    assert model_file.verified(path) == table

    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(FedKeeperError, match="its tensors have the digest"):
        model_file.verified(path)


async def test_frozen_tensors_are_in_the_file_and_not_in_the_digest(bus: Broker, memory_url: str, out: Path) -> None:
    sdk = Client(bus)

    learning = FakeLearning(frozen=("layer.weight",))
    async with running(serve(bus, learning), Fleet(bus).serve()):
        job = await sdk.submit(fakes.job())
        await watch_to_end(sdk, job)
    await call(fetch.fetch, job, out=out, url=memory_url)
    path = out / "latest" / "model.safetensors"
    record = await sdk.job(job)
    assert record.model is not None
    assert set(tensors.decode(path.read_bytes())[0]) == set(fakes.INITIAL)
    assert model_file.verified(path)["sha256"] == record.model.sha256


async def test_a_job_starts_from_a_fetched_file(bus: Broker, memory_url: str, out: Path) -> None:
    job = await train(bus)
    await call(fetch.fetch, job, out=out, url=memory_url)
    path = (out / "latest" / "model.safetensors").resolve()
    second = await train(bus, model={"from": f"file://{path}"}, stop={"rounds": 1}, seed=9)
    record = await Client(bus).job(second)
    assert (record.phase, record.reason) == ("completed", "1 rounds are done")


async def test_a_running_job_gives_what_there_is(
    bus: Broker, memory_url: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hold = asyncio.Event()

    async def hold_round_three(bus: Broker, task: RoundTask) -> None:
        if task.round == 3:
            await hold.wait()
        await fakes.answer(bus, task)

    sdk = Client(bus)
    async with running(serve(bus, FakeLearning()), Fleet(bus, hold_round_three).serve()):
        job = await sdk.submit(fakes.job(stop={"rounds": 4}))
        async for message in sdk.watch(job):
            if isinstance(message.event, RoundCompleted) and message.event.round == 2:
                break
        await call(fetch.fetch, job, out=out, url=memory_url)
        assert "the job has not ended: running, 2 of 4 rounds" in capsys.readouterr().err
        assert [row["round"] for row in rows(out / "latest")] == [1, 2]
        hold.set()
        await watch_to_end(sdk, job)
    await call(fetch.fetch, job, out=out, url=memory_url)
    assert [row["round"] for row in rows(out / "latest")] == [1, 2, 3, 4]


async def test_a_failed_job_leaves_its_last_model(
    bus: Broker, memory_url: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail_in_round_three(bus: Broker, task: RoundTask) -> None:
        if task.round < 3:
            await fakes.answer(bus, task)
        else:
            await fakes.report(bus, task, "dead", reason="the disk is broken")

    sdk = Client(bus)
    async with running(serve(bus, FakeLearning()), Fleet(bus, fail_in_round_three).serve()):
        job = await sdk.submit(fakes.job(stop={"rounds": 4}, cohort={"on_failure": "stop"}))
        with pytest.raises(FedKeeperError, match=f"job {job} failed: the disk is broken"):
            await call(watch.watch, job, out=out, url=memory_url)
    folder = (out / "latest").resolve()
    assert model_file.verified(folder / "model.safetensors")["round"] == "2"
    assert [row["round"] for row in rows(folder)] == [1, 2]
    capsys.readouterr()
    await call(fetch.fetch, job, out=out, url=memory_url)
    assert "the job has failed: the disk is broken" in capsys.readouterr().err


async def test_where_the_events_are_forgotten_the_record_tells(
    bus: Broker, memory_url: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = await train(bus)
    await call(fetch.fetch, job, out=out, url=memory_url)
    before = (out / "latest" / "metrics.jsonl").read_bytes()
    await bus.purge(topics.job_progress(job))
    other = out / "other"
    await call(fetch.fetch, job, out=other, url=memory_url)
    assert "the events of this job are forgotten" in capsys.readouterr().err
    (row,) = rows(other / "latest")
    known = json.loads(before.splitlines()[-1])
    assert (row["round"], row["model"], row["accuracy"]) == (2, known["model"], known["accuracy"])
    assert (row["time_s"], row["evaluation_s"]) == (None, None)
    assert model_file.verified(other / "latest" / "model.safetensors")
    await call(fetch.fetch, job, out=out, url=memory_url)
    assert (out / "latest" / "metrics.jsonl").read_bytes() == before, "what was known is kept"
    assert not list((out / "latest").resolve().glob(".*"))


async def test_the_folder_of_another_job_is_left_alone(bus: Broker, memory_url: str, out: Path) -> None:
    job = await train(bus, id="mine")
    await call(fetch.fetch, job, out=out, url=memory_url)
    folder = (out / "latest").resolve()
    (folder / "job.toml").write_text(jobs.to_toml(fakes.job(id="mine", seed=7)))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(BadOption, match="has the results of another job with this id"):
        await call(fetch.fetch, job, out=out, url=memory_url)
    with pytest.raises(BadOption, match="has the results of another job with this id"):
        await follow.follow(Client(bus), job, Console(file=io.StringIO()), folder=folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


async def test_a_job_without_a_round_is_told(bus: Broker, memory_url: str, out: Path) -> None:
    sdk = Client(bus)
    async with running(serve(bus, FakeLearning())):
        job = await sdk.submit(fakes.job(data={"dataset": "nobody-has-it"}))
        with pytest.raises(FedKeeperError, match=f"job {job} has completed no round: .*, 0 of 2 rounds"):
            await call(fetch.fetch, job, out=out, url=memory_url)
