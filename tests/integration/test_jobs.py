"""Jobs on the FL server, with fake clients: how they start, wait, end, and run side by side."""

import asyncio

from broker import topics
from broker.base import Broker
from broker.messages import codec, progress
from broker.messages.job_record import JobRecord
from broker.messages.round import RoundTask, nonce, token
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.job_progress import WITHIN_S, digest, events_of, watch_to_end

SECRET = "known to the test"  # noqa: S105 (not a real one)


async def test_a_job_is_trained_round_by_round(sdk: Client, bus: Broker) -> None:
    fleet = Fleet(bus)
    await sdk.register(fakes.clients(10))
    async with running(serve(bus, FakeLearning()), fleet.serve()):
        job = await sdk.submit(fakes.job())
        messages = await watch_to_end(sdk, job)

    kinds = [message.event.what for message in messages]
    assert events_of(messages, progress.JobAccepted)[0].job == fakes.job()
    assert kinds[:2] == ["job.accepted", "job.started"]
    assert kinds[-1] == "job.completed"
    assert kinds.count("update.counted") == 8
    assert [event.round for event in events_of(messages, progress.RoundCompleted)] == [1, 2]
    assert [event.round for event in events_of(messages, progress.ModelEvaluated)] == [1, 2]
    assert set(fleet.task_counts.values()) == {1}
    record = await sdk.job(job)
    assert (record.phase, record.done) == ("completed", 2)


async def test_a_job_announces_that_it_waits_for_clients_and_starts_when_they_register(
    sdk: Client, bus: Broker
) -> None:
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        job = await sdk.submit(fakes.job())
        async for message in sdk.watch(job):
            if isinstance(message.event, progress.JobWaiting):
                assert "0 of 4 clients" in message.event.reason
                await sdk.register(fakes.clients(4))
        assert (await sdk.job(job)).phase == "completed"


async def test_a_job_stops_waiting_for_clients_after_wait_s(sdk: Client, bus: Broker) -> None:
    async with running(serve(bus, FakeLearning())):
        job = await sdk.submit(fakes.job(cohort={"wait_s": 0.2}))
        messages = await watch_to_end(sdk, job)
    assert "0 of 4 clients that hold" in events_of(messages, progress.JobFailed)[0].reason


async def test_a_cancelled_job_ends_and_keeps_its_model(sdk: Client, bus: Broker) -> None:
    hold = asyncio.Event()

    async def hold_round_two(bus: Broker, task: RoundTask) -> None:
        if task.round == 2:
            await hold.wait()
        await fakes.answer(bus, task)

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, hold_round_two).serve()):
        job = await sdk.submit(fakes.job())
        async for message in sdk.watch(job):
            if isinstance(message.event, progress.RoundOpened) and message.event.round == 2:
                await sdk.cancel(job)
        assert (await sdk.job(job)).phase == "cancelled"
        assert await sdk.model(job)


async def test_a_job_that_waits_for_clients_can_be_cancelled(sdk: Client, bus: Broker) -> None:
    async with running(serve(bus, FakeLearning())):
        job = await sdk.submit(fakes.job())
        async with asyncio.timeout(WITHIN_S):
            async for message in sdk.watch(job):
                if isinstance(message.event, progress.JobWaiting):
                    await sdk.cancel(job)
        assert (await sdk.job(job)).phase == "cancelled"


async def test_the_target_accuracy_ends_a_job_early(sdk: Client, bus: Broker) -> None:
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        job = await sdk.submit(fakes.job(stop={"rounds": 50, "target_accuracy": 0.1}))
        messages = await watch_to_end(sdk, job)
    assert 1 < (await sdk.job(job)).done < 50
    assert "reached the target 0.1" in events_of(messages, progress.JobCompleted)[0].reason


async def test_a_job_whose_record_has_no_secret_gets_one(sdk: Client, bus: Broker) -> None:
    fleet, record = Fleet(bus), JobRecord(id="bare", job=fakes.job())
    await sdk.register(fakes.clients(4))
    await bus.put(topics.job_record("bare"), codec.encode(record))
    async with running(serve(bus, FakeLearning(), secret=lambda: SECRET), fleet.serve()):
        assert (await watch_to_end(sdk, "bare"))[-1].event.what == "job.completed"
    expected = [token(nonce(SECRET, "bare", task.round), task.client_id) for task in fleet.tasks]
    assert [task.token for task in fleet.tasks] == expected


async def test_several_jobs_run_at_once_and_one_that_fails_harms_no_other(sdk: Client, bus: Broker) -> None:
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning(fails_on="missing")), Fleet(bus).serve()):
        good = [await sdk.submit(fakes.job(f"good-{i}")) for i in range(3)]
        bad = await sdk.submit(fakes.job("bad", data={"dataset": "missing"}))
        histories = [await watch_to_end(sdk, job) for job in (*good, bad)]

    assert [messages[-1].event.what for messages in histories] == ["job.completed"] * 3 + ["job.failed"]
    assert "put it there" in events_of(histories[-1], progress.JobFailed)[0].reason
    assert len({await digest(sdk, job) for job in good}) == 1


async def test_two_servers_on_one_broker_agree(sdk: Client, bus: Broker) -> None:
    fleet = Fleet(bus)
    await sdk.register(fakes.clients(10))
    async with running(serve(bus, FakeLearning()), fleet.serve()):
        alone = await sdk.submit(fakes.job(stop={"rounds": 4}))
        await watch_to_end(sdk, alone)
    async with running(serve(bus, FakeLearning()), serve(bus, FakeLearning()), fleet.serve()):
        both = await sdk.submit(fakes.job(stop={"rounds": 4}))
        messages = await watch_to_end(sdk, both)

    assert await digest(sdk, alone) == await digest(sdk, both)
    assert [event.round for event in events_of(messages, progress.RoundCompleted)] == [1, 2, 3, 4]
    tokens = {(task.id, task.token) for task in fleet.tasks}
    assert len(tokens) == len({task.id for task in fleet.tasks}), "a task was sent with two tokens"
