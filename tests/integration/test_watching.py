"""What a job's submitter and its watchers are told is true: about its id, its end, and a broker out of reach."""

import asyncio
from collections.abc import Callable

import pytest

from broker import topics
from broker.base import Broker
from broker.deliveries import Value
from broker.messages import codec, progress
from broker.messages.job_record import JobRecord
from fedkeeper import watching
from fedkeeper.errors import JobRefused, NoSuchJob, NotAnswered
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.job_progress import WITHIN_S, watch_to_end

ANOTHER = "another job has this id; choose another, or none"


async def test_a_second_job_under_an_id_is_refused(sdk: Client, bus: Broker) -> None:
    async with running(serve(bus, FakeLearning())):
        job = await sdk.submit(fakes.job(id="mine", seed=1))
        with pytest.raises(JobRefused, match=ANOTHER) as refused:
            await sdk.submit(fakes.job(id="mine", seed=2))
        assert refused.value.field == "id"
        assert await sdk.submit(fakes.job(id="mine", seed=1)) == job, "the same job again is no other job"


async def test_of_two_jobs_at_once_under_one_id_one_is_refused(sdk: Client, bus: Broker) -> None:
    async with running(serve(bus, FakeLearning())):
        jobs = [fakes.job(id="mine", seed=seed) for seed in (1, 2)]
        results = await asyncio.gather(*(sdk.submit(job) for job in jobs), return_exceptions=True)
        winner = (await sdk.job("mine")).job.seed
    assert isinstance(results[2 - winner], JobRefused)
    assert results[winner - 1] == "mine"


async def test_garbage_under_a_jobs_id_does_not_end_its_watchers(sdk: Client, bus: Broker) -> None:
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning())):
        job = await sdk.submit(fakes.job())
        await bus.publish(topics.submission(job), b"garbage")
        async with running(Fleet(bus).serve()):
            kinds = [message.event.what for message in await watch_to_end(sdk, job)]
    assert "job.rejected" not in kinds
    assert kinds[-1] == "job.completed"


async def test_a_job_whose_mistake_is_mended_is_accepted_under_the_same_id(sdk: Client, bus: Broker) -> None:
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        await bus.publish(topics.submission("mine"), b'{"id": "mine", "mistake": 1}')
        with pytest.raises(JobRefused, match="mistake"):
            await sdk.wait_until_accepted("mine")
        job = await sdk.submit(fakes.job(id="mine"))
        kinds = [message.event.what for message in await watch_to_end(sdk, job)]
    assert kinds[:2] == ["job.rejected", "job.accepted"]
    assert kinds[-1] == "job.completed"


async def test_a_job_that_nobody_takes_is_waited_for(sdk: Client, bus: Broker) -> None:
    with pytest.raises(NotAnswered) as unanswered:
        await sdk.submit(fakes.job(id="mine", seed=2), timeout_s=0.01)
    async with running(serve(bus, FakeLearning())), asyncio.timeout(WITHIN_S):
        await sdk.wait_until_accepted("mine", fakes.job(id="mine", seed=2), submission=unanswered.value.submission)
        with pytest.raises(JobRefused, match=ANOTHER):
            await sdk.wait_until_accepted("mine", fakes.job(id="mine", seed=3))


async def test_the_end_of_a_job_whose_events_are_forgotten_is_told_from_its_record(sdk: Client, bus: Broker) -> None:
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        job = await sdk.submit(fakes.job())
        end = (await watch_to_end(sdk, job))[-1].event
        async with asyncio.timeout(WITHIN_S), bus.watch(topics.job_record(job)) as values:
            async for value in values:
                if isinstance(value, Value) and codec.decode(JobRecord, value.payload).is_finished:
                    break
    await bus.purge(topics.job_progress(job))
    (told,) = await watch_to_end(sdk, job)
    assert (told.event, told.time_s) == (end, (await sdk.job(job)).ended_s)


async def test_a_job_that_does_not_exist_is_not_waited_for(sdk: Client) -> None:
    with pytest.raises(NoSuchJob):
        await watch_to_end(sdk, "nowhere")


async def test_a_job_whose_record_vanishes_is_not_waited_for(
    sdk: Client, bus: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "CHECK_S", 0.01)
    await bus.put(topics.job_record("mine"), codec.encode(JobRecord(id="mine", job=fakes.job())))
    await bus.publish(topics.progress("mine", "job", "accepted"), _accepted("mine"))

    async def delete_while_watching() -> None:
        async for _ in sdk.watch("mine"):
            await bus.delete(topics.job_record("mine"))

    with pytest.raises(NoSuchJob):
        await asyncio.wait_for(delete_while_watching(), WITHIN_S)


async def test_a_watcher_is_told_when_the_broker_is_out_of_reach(
    sdk: Client, bus: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "CHECK_S", 0.01)
    monkeypatch.setattr(watching, "ANSWER_S", 0.05)
    await bus.put(topics.job_record("mine"), codec.encode(JobRecord(id="mine", job=fakes.job())))
    told: list[bool] = []
    answer, silent = bus.get, asyncio.Event()

    async def get(topic: str) -> Value | None:
        if silent.is_set():
            await asyncio.Event().wait()
        return await answer(topic)

    monkeypatch.setattr(bus, "get", get)

    async def watch(note: Callable[[bool], None]) -> None:
        async for _ in sdk.watch("mine", on_reach=note):
            pass

    async with running(watch(told.append)):
        silent.set()
        await fakes.soon(lambda: told == [False])
        silent.clear()
        await fakes.soon(lambda: told == [False, True])


def _accepted(job: str) -> bytes:
    event = progress.JobAccepted(name="test", job=fakes.job())
    return progress.encode(progress.Progress(job, event, 1.0, f"{job}.job.accepted"))
