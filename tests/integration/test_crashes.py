"""A server that crashes at any point is replaced by another one, and the model is the same."""

import asyncio
import functools
import itertools
import os
import signal
import sys
import time
from collections import Counter
from typing import Any

import msgspec
import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.deliveries import Receipt
from broker.messages import progress
from broker.messages.job import Job
from broker.messages.round import RoundTask
from broker.nats.server import NatsServer
from fedkeeper.sdk import Client
from server.learning import InitialModel
from server.service import serve
from tests.support import fakes, strategy_clients
from tests.support.fakes import FakeLearning, Fleet, running, soon
from tests.support.server_crashes import ROUNDS, event_ids, train


@pytest.mark.parametrize("strategy", ["adaptive", "scaffold", "fednova", "krum", "qfedavg"])
async def test_a_server_that_crashes_at_any_write_is_replaced_with_the_same_model_and_events(strategy: str) -> None:
    run = functools.partial(train, sections=strategy_clients.JOBS[strategy], behave=strategy_clients.answer)
    undisturbed, _, all_ids, _ = await run(f"memory://undisturbed-{strategy}", None)
    expected = stable_ids(all_ids)
    for writes in itertools.count(1):
        digest, fleet, ids, has_crashed = await run(f"memory://crash-{strategy}-{writes}", writes)
        assert digest == undisturbed, f"another model after a crash at write {writes}"
        # The broker drops a repetition with the same id. A repetition with another id would be in the list.
        assert stable_ids(ids) == expected, f"an event is lost, or has two ids, after a crash at write {writes}"
        assert max(fleet.task_counts.values()) <= 2
        if not has_crashed:
            break
    assert writes > 10 * ROUNDS, "a round has more writes than that"


async def test_a_server_that_crashes_at_any_write_announces_the_same_judgements_of_the_clients() -> None:
    """Among the writes are those of the commit with a judgement, and those of the round that judges the last model."""
    evaluation = {"data": "", "holdout": 0.2, "clients": 2, "best": "loss"}
    undisturbed, _, all_ids, _ = await train("memory://undisturbed-judging", None, evaluation=evaluation)
    judged = [event_id for event_id in all_ids if event_id.startswith("model.evaluated")]
    assert judged == [f"model.evaluated.{round_}.clients" for round_ in range(ROUNDS + 1)]
    for writes in itertools.count(1):
        digest, fleet, ids, has_crashed = await train(f"memory://judging-{writes}", writes, evaluation=evaluation)
        assert digest == undisturbed, f"another model after a crash at write {writes}"
        assert stable_ids(ids) == stable_ids(all_ids), f"an event is lost, or has two ids, after write {writes}"
        assert max(fleet.task_counts.values()) <= 2
        if not has_crashed:
            break
    assert writes > 10 * (ROUNDS + 1)


async def test_a_server_that_crashes_at_any_write_announces_each_training_and_a_failed_round_once() -> None:
    """A client dies in round 2 when the others have answered, so that round fails and another one follows."""
    answered, dead = Counter[int](), list[str]()

    async def eventful(bus: Broker, task: RoundTask) -> None:
        await fakes.report(bus, task, "running")
        if task.round == 2 and not dead:
            dead.append(task.client_id)  # the same in every run: the cohorts are
        if task.round == 2 and task.client_id in dead:
            await soon(lambda: answered[2] >= 3)
            await fakes.report(bus, task, "dead", reason="it is broken")
        else:
            await fakes.answer(bus, task)
            answered[task.round] += 1

    undisturbed, ids = "", list[str]()
    for writes in itertools.chain([None], itertools.count(2, 2)):
        answered.clear()
        digest, _, all_ids, has_crashed = await train(f"memory://failing-{writes}", writes, behave=eventful)
        undisturbed, ids = undisturbed or digest, ids or stable_ids(all_ids)
        assert digest == undisturbed, f"another model after a crash at write {writes}"
        assert stable_ids(all_ids) == ids, f"an event is lost, or said too early, after a crash at write {writes}"
        for round_ in range(1, 5):
            ends = [each for each in all_ids if each in (f"round.completed.{round_}", f"round.failed.{round_}")]
            assert len(ends) == 1
        for each in all_ids:
            if each.startswith("update.counted"):
                training = each.replace("update.counted", "client.training") + ".1"
                assert all_ids.index(training) < all_ids.index(each), f"after a crash at write {writes}"
        if writes is not None and not has_crashed:
            break
    assert "round.failed.2" in ids


async def test_a_server_that_comes_back_after_the_deadline_counts_what_arrived_before(memory_url: str) -> None:
    has_gone = asyncio.Event()

    async def answer_later(bus: Broker, task: RoundTask) -> None:
        await has_gone.wait()
        await fakes.answer(bus, task)

    async with broker.connect(memory_url) as bus, asyncio.timeout(60):
        sdk, fleet = Client(bus), Fleet(bus, answer_later)
        job = fakes.job(id="late", cohort={"clients": 20}, data={"clients": 20}, stop={"rounds": 1})
        await sdk.register(fakes.clients(20))
        async with running(fleet.serve()):
            async with running(serve(bus, FakeLearning())):
                await sdk.submit(job)
                await soon(lambda: len(fleet.tasks) == 20)
            has_gone.set()
            async with bus.subscribe(topics.job_updates("late")) as updates:
                for _ in range(20):
                    await anext(updates)
            async with running(serve(bus, FakeLearning(), clock=lambda: time.time() + 700.0)):
                events = [message.event async for message in sdk.watch("late")]
    ends = [event for event in events if isinstance(event, progress.RoundCompleted | progress.RoundFailed)]
    assert [len(end.counted) for end in ends] == [20]
    assert events[-1].what == "job.completed"


async def test_a_round_has_invited_its_clients_when_its_opening_is_announced(memory_url: str) -> None:
    """Whoever goes on with a round whose clients are invited does not announce its opening again."""
    may_announce, may_answer = asyncio.Event(), asyncio.Event()

    async def answer_later(bus: Broker, task: RoundTask) -> None:
        await may_answer.wait()
        await fakes.answer(bus, task)

    async with broker.connect(memory_url) as bus, broker.connect(memory_url) as servers, asyncio.timeout(60):
        publish = servers.publish

        async def publish_later(topic: str, payload: bytes, *, dedupe: str | None = None) -> Receipt:
            if topic == topics.progress("late", "round", "opened"):
                await may_announce.wait()
            return await publish(topic, payload, dedupe=dedupe)

        servers.publish = publish_later  # type: ignore[method-assign]
        sdk, fleet = Client(bus), Fleet(bus, answer_later)
        await sdk.register(fakes.clients(3))
        async with running(fleet.serve()), running(serve(servers, FakeLearning())):
            await sdk.submit(fakes.job(id="late", cohort={"clients": 3}, data={"clients": 3}, stop={"rounds": 1}))
            await soon(lambda: len(fleet.tasks) == 3)
            for _ in range(1000):
                await asyncio.sleep(0)
            assert not (await sdk.job("late")).invited
            may_announce.set()
            may_answer.set()
            events = [message.event.what async for message in sdk.watch("late")]
    assert events[-1] == "job.completed"


class NoModel(FakeLearning):
    """Fails the test if the server builds a model."""

    async def initial_model(self, job: Job) -> InitialModel:
        raise AssertionError(f"{job.name} has a model already")


async def test_a_server_that_continues_a_job_builds_no_model() -> None:
    undisturbed, _, _, _ = await train("memory://not-taken-over", None)
    async with broker.connect("memory://taken-over") as bus:
        sdk, job = Client(bus), fakes.job(stop={"rounds": ROUNDS}, cohort={"grace_s": 0.0})
        await sdk.register(fakes.clients(6))
        async with running(Fleet(bus).serve()):
            async with running(serve(bus, FakeLearning())):
                await sdk.submit(msgspec.structs.replace(job, id="crashing"))
                async for message in sdk.watch("crashing"):
                    if isinstance(message.event, progress.RoundOpened):
                        break
            async with running(serve(bus, NoModel())):
                await event_ids(sdk, "crashing")
        record = await sdk.job("crashing")
    assert record.buffers == ("norm.running_mean", "norm.num_batches_tracked")
    assert record.model is not None
    assert record.model.sha256 == undisturbed


def stable_ids(ids: list[str]) -> list[str]:
    """Return the ids of the events that a crash neither adds nor removes, sorted."""
    return sorted(event_id for event_id in ids if not event_id.startswith(("round.quorum", "round.opened")))


async def start_server(url: str) -> asyncio.subprocess.Process:
    env = {**os.environ, "FEDKEEPER_URL": url}
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.support.fake_server", env=env)


@pytest.mark.slow
async def test_a_restarted_server_uses_the_updates_that_arrived_before_it_was_killed(nats_server: NatsServer) -> None:
    """SIGKILL after 3 of 10 updates: no client trains again, and the digest is the same as without the crash."""
    first_three, all_others = asyncio.Event(), asyncio.Event()
    arrived: list[str] = []

    async def three_then_wait(bus: Broker, task: RoundTask) -> None:
        if task.round == 1 and not all_others.is_set():
            if len(arrived) >= 3:
                await all_others.wait()
            arrived.append(task.client_id)
        await fakes.answer(bus, task)

    url = nats_server.url
    async with broker.connect(url) as bus:
        sdk, job = Client(bus), fakes.job(cohort={"clients": 10, "deadline_s": 600.0})
        await sdk.register(fakes.clients(10))
        undisturbed = await train_to_end(sdk, Fleet(bus), job, url)

        fleet = Fleet(bus, three_then_wait)
        server = await start_server(url)
        async with running(fleet.serve()):
            killed = await sdk.submit(job, timeout_s=120)
            async for message in sdk.watch(killed):
                if isinstance(message.event, progress.UpdateCounted) and message.event.counted == 3:
                    first_three.set()
                    break
            server.send_signal(signal.SIGKILL)
            await server.wait()
            await soon(lambda: len(fleet.task_counts) == 10)
            all_others.set()
            server = await start_server(url)
            async with asyncio.timeout(300):
                kinds = [message.event.what async for message in sdk.watch(killed)]
            server.terminate()
            await server.wait()
        record = await sdk.job(killed)

    assert record.model is not None
    assert kinds[-1] == "job.completed"
    assert record.model.sha256 == undisturbed
    assert set(fleet.task_counts.values()) == {1}, "a client was asked to train again"


async def train_to_end(sdk: Client, fleet: Fleet, job: Any, url: str) -> str:
    server = await start_server(url)
    async with running(fleet.serve()):
        name = await sdk.submit(job, timeout_s=120)
        async with asyncio.timeout(300):
            assert [message.event.what async for message in sdk.watch(name)][-1] == "job.completed"
    server.terminate()
    await server.wait()
    record = await sdk.job(name)
    assert record.model is not None
    return record.model.sha256


async def test_a_broker_that_is_killed_in_the_middle_of_a_round_costs_nothing(nats_server: NatsServer) -> None:
    async with broker.connect(nats_server.url) as bus:
        sdk, fleet, job = Client(bus), Fleet(bus), fakes.job(cohort={"clients": 10}, stop={"rounds": 3})
        await sdk.register(fakes.clients(10))
        async with running(serve(bus, FakeLearning()), fleet.serve()), asyncio.timeout(300):
            undisturbed = await sdk.submit(job)
            await event_ids(sdk, undisturbed)
            disturbed = await sdk.submit(job)
            async for message in sdk.watch(disturbed):
                if isinstance(message.event, progress.UpdateCounted) and message.event.counted in (1, 5):
                    await nats_server.kill()
                    await nats_server.start()
            records = [await sdk.job(name) for name in (undisturbed, disturbed)]
    assert [record.phase for record in records] == ["completed", "completed"]
    assert records[0].model is not None
    assert records[1].model is not None
    assert records[0].model.sha256 == records[1].model.sha256
