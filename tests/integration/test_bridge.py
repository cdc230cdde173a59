"""The bridge's runner, with a platform that a test can follow by hand."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

import broker
from bridges import Activation, Invoker, Runner
from bridges.errors import InvocationFailed
from broker import topics
from broker.base import Broker
from broker.messages import cloudevents, codec
from broker.messages.cloudevents import Envelope
from broker.messages.invocation import Invocation, Report
from broker.messages.round import RoundTask
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.fake_platforms import WITHIN_S, FakePlatform, publish, runner
from tests.support.fakes import FakeLearning, running
from tests.support.tasks import task


async def outcomes(bus: Broker, until: Callable[[list[Invocation]], bool]) -> list[Invocation]:
    """The invocation records, until there are those that a test waits for."""
    records: list[Invocation] = []
    every = topics.invocation("fake", topics.ANY)
    async with asyncio.timeout(WITHIN_S), bus.subscribe(every) as deliveries:
        async for delivery in deliveries:
            records.append(cloudevents.data_of(await delivery.read(), Invocation))
            if until(records):
                break
    return records


async def dead_letters(bus: Broker) -> AsyncIterator[bytes]:
    async with bus.subscribe(topics.dead("fake", topics.ANY)) as deliveries:
        async for delivery in deliveries:
            yield await delivery.read()


def has(outcome: str, count: int = 1) -> Callable[[list[Invocation]], bool]:
    return lambda records: sum(record.outcome == outcome for record in records) >= count


async def test_a_task_is_invoked_and_recorded(bus: Broker) -> None:
    platform = FakePlatform()
    async with running(runner(bus, platform).run()):
        await publish(bus, task())
        records = await outcomes(bus, has("succeeded"))
    assert [(record.outcome, record.activation, record.cold) for record in records] == [
        ("running", "run-1", True),
        ("succeeded", "run-1", None),
    ]


async def test_a_function_that_fails_once_is_invoked_again(bus: Broker) -> None:
    def fails_once(_: RoundTask, attempt: int) -> None:
        if attempt == 1:
            raise InvocationFailed("it raised", activation="run-1")

    platform = FakePlatform(fails_once)
    async with running(runner(bus, platform).run()):
        await publish(bus, task())
        records = await outcomes(bus, has("succeeded"))
    assert platform.calls == [("client-00", 1), ("client-00", 2)]
    assert [record.reason for record in records if record.outcome == "failed"] == ["it raised"]


@pytest.mark.parametrize(("retryable", "attempts"), [(True, 3), (False, 1)])
async def test_a_function_that_always_fails_is_given_up_and_kept(
    bus: Broker, *, retryable: bool, attempts: int
) -> None:
    def fails(_: RoundTask, __: int) -> None:
        raise InvocationFailed("it always raises", retryable=retryable)

    platform = FakePlatform(fails)
    async with running(runner(bus, platform).run()):
        await publish(bus, task())
        records = await outcomes(bus, has("dead"))
        async for letter in dead_letters(bus):
            assert cloudevents.data_of(letter, RoundTask) == task()
            break
    assert [attempt for _, attempt in platform.calls] == list(range(1, attempts + 1))
    assert records[-1].reason == "it always raises"


async def test_tasks_that_are_none_are_kept_and_the_bridge_works_on(bus: Broker) -> None:
    platform = FakePlatform()
    forged = cloudevents.encode(Envelope("forged", "/server", "round.task", 0.0), task("client-07"))
    no_id = cloudevents.encode(Envelope("no id", "/server", "round.task", 0.0), task("No_Id"))
    async with running(runner(bus, platform).run()):
        await bus.publish("fl.tasks.fake.client-00", b"\xff garbage")
        await bus.publish("fl.tasks.fake.No_Id", no_id)
        await bus.publish("fl.tasks.fake.client-01", forged)
        await publish(bus, task("client-02"))
        await outcomes(bus, has("succeeded"))
        letters: list[bytes] = []
        async with asyncio.timeout(WITHIN_S):
            async for letter in dead_letters(bus):
                letters.append(letter)
                if len(letters) == 3:
                    break
    assert platform.calls == [("client-02", 1)]
    assert set(letters) == {b"\xff garbage", no_id, forged}


async def test_a_task_after_its_deadline_is_not_started(bus: Broker) -> None:
    platform = FakePlatform()
    async with running(runner(bus, platform).run()):
        await publish(bus, task(deadline_s=1.0))
        await outcomes(bus, has("expired"))
    assert platform.calls == []


@pytest.mark.parametrize("skew_s", [-600.0, 600.0])
async def test_a_bridge_with_a_wrong_clock_does_its_tasks(bus: Broker, skew_s: float) -> None:
    left: list[float | None] = []

    def notes_what_is_left(task: RoundTask, _: int) -> None:
        left.append(task.lasts_s)

    platform, now_s = FakePlatform(notes_what_is_left), time.time()
    wrong = Runner(bus, Invoker(platform), clock=lambda: time.time() + skew_s)
    await publish(bus, task(deadline_s=now_s + 300.0, lasts_s=300.0))
    async with running(wrong.run()):
        await outcomes(bus, has("succeeded"))
    assert left[0] is not None
    assert 0 < left[0] < 300.0, "the time that the task has waited is over"


@pytest.mark.parametrize("skew_s", [-600.0, 600.0])
async def test_a_bridge_with_a_wrong_clock_starts_no_task_that_is_over(bus: Broker, skew_s: float) -> None:
    platform = FakePlatform()
    await publish(bus, task(lasts_s=0.0))
    async with running(Runner(bus, Invoker(platform), clock=lambda: time.time() + skew_s).run()):
        await outcomes(bus, has("expired"))
    assert platform.calls == []


async def test_a_function_that_hangs_is_given_up_at_the_deadline(bus: Broker) -> None:
    clock = [0.0]

    def hangs(_: RoundTask, __: int) -> "asyncio.Future[None]":
        return asyncio.get_running_loop().create_future()

    platform = FakePlatform(hangs)
    late_runner = Runner(bus, Invoker(platform), clock=lambda: clock[0])
    async with running(late_runner.run()):
        await publish(bus, task(deadline_s=0.3))
        records = await outcomes(bus, has("expired"))
    assert "deadline" in records[-1].reason
    assert platform.in_flight == 0


async def test_a_second_copy_of_a_task_is_not_run_beside_the_first(bus: Broker) -> None:
    release = asyncio.Event()

    def waits(_: RoundTask, __: int) -> "asyncio.Future[None]":
        return asyncio.ensure_future(_released(release))

    platform = FakePlatform(waits)
    async with running(runner(bus, platform).run()):
        await publish(bus, task(), "first")
        await publish(bus, task(), "second")
        await publish(bus, task("client-01"), "third")
        await outcomes(bus, has("running", 2))
        release.set()
        await outcomes(bus, has("succeeded", 2))
    assert sorted(platform.calls) == [("client-00", 1), ("client-01", 1)]


async def _released(event: asyncio.Event) -> None:
    await event.wait()


async def test_no_more_invocations_are_under_way_than_the_platform_takes(bus: Broker) -> None:
    full = asyncio.Event()

    def until_full(_: RoundTask, __: int) -> "asyncio.Future[None]":
        if platform.in_flight >= platform.concurrency:
            full.set()
        return asyncio.ensure_future(a_while_after(full))

    async def a_while_after(event: asyncio.Event) -> None:
        await event.wait()
        await asyncio.sleep(0.02)

    platform = FakePlatform(until_full)
    async with running(runner(bus, platform).run()):
        for i in range(20):
            await publish(bus, task(f"client-{i:02d}"))
        await outcomes(bus, has("succeeded", 20))
    assert platform.max_in_flight == platform.concurrency


@pytest.mark.slow
async def test_a_long_training_is_not_delivered_again_while_the_bridge_works_on_it(bus: Broker) -> None:
    def takes_longer_than_the_ack_wait(_: RoundTask, __: int) -> "asyncio.Future[None]":
        return asyncio.ensure_future(asyncio.sleep(2.5))

    platform = FakePlatform(takes_longer_than_the_ack_wait)
    async with running(runner(bus, platform).run()):
        await publish(bus, task())
        await outcomes(bus, has("succeeded"))
    assert platform.calls == [("client-00", 1)]


async def test_a_bridge_that_dies_leaves_its_tasks_to_the_next(bus: Broker) -> None:
    def hangs(_: RoundTask, __: int) -> "asyncio.Future[None]":
        return asyncio.get_running_loop().create_future()

    first, second = FakePlatform(hangs), FakePlatform()
    async with running(runner(bus, first).run()):
        for i in range(5):
            await publish(bus, task(f"client-{i:02d}"))
        await outcomes(bus, has("running", first.concurrency))
    async with running(runner(bus, second).run()):
        await outcomes(bus, has("succeeded", 5))
    assert {client for client, _ in second.calls} == {f"client-{i:02d}" for i in range(5)}


class Reporting(FakePlatform):
    """A platform that tells nothing after it has accepted a task; its function reports."""

    def __init__(self, bus: Broker) -> None:
        super().__init__()
        self.bus = bus

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        self.calls.append((task.client_id, attempt))
        yield Activation(f"run-{attempt}", "accepted")
        await self.report(Report(task.id, "training", attempt=attempt, every_s=0.01), task)
        if attempt > 1:
            await self.report(Report(task.id, "done", attempt=attempt), task)

    async def report(self, report: Report, task: RoundTask) -> None:
        await self.bus.put(topics.report("fake", task.client_id), codec.encode(report))


async def test_a_function_that_falls_silent_is_invoked_again(bus: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridges.attempt.SHORTEST_S", 0.01)
    platform = Reporting(bus)
    async with running(runner(bus, platform).run()):
        await publish(bus, task())
        records = await outcomes(bus, has("succeeded"))
    assert platform.calls == [("client-00", 1), ("client-00", 2)]
    assert [record.reason for record in records if record.outcome == "failed"] == ["nothing was heard of it for 0.06 s"]


async def test_a_bridge_that_is_stopped_gives_its_tasks_back(url: str) -> None:
    def hangs(_: RoundTask, __: int) -> "asyncio.Future[None]":
        return asyncio.get_running_loop().create_future()

    first, second = FakePlatform(hangs), FakePlatform()
    async with broker.connect(url, ack_wait_s=10 * WITHIN_S) as bus:
        async with running(runner(bus, first).run()):
            await publish(bus, task())
            await outcomes(bus, has("running"))
        async with running(runner(bus, second).run()):
            await outcomes(bus, has("succeeded"))
    assert (first.calls, second.calls) == ([("client-00", 1)], [("client-00", 2)])


@pytest.mark.parametrize(
    "change",
    [{"schema": 2, "model": "elsewhere"}, {"deadline_s": "soon"}, {"strategy": {"name": "of-a-newer-version"}}],
)
async def test_a_task_that_can_t_be_read_is_given_up_at_once_if_it_names_itself(
    bus: Broker, change: dict[str, Any]
) -> None:
    event = cloudevents.encode(Envelope("1", "/server", "round.task", 0.0), msgspec.to_builtins(task()) | change)
    async with running(runner(bus, platform := FakePlatform()).run()):
        await bus.publish(topics.task("fake", "client-00"), event)
        (dead,) = await outcomes(bus, has("dead"))
        async for letter in dead_letters(bus):
            assert letter == event
            break
    assert (dead.job, dead.round, dead.client, dead.attempt) == ("job", 1, "client-00", 1)
    assert ("upgrade this bridge to the version of the server" in dead.reason) == ("schema" in change)
    assert ("'of-a-newer-version' - at `$.strategy.name`" in dead.reason) == ("strategy" in change)
    assert platform.calls == []


async def test_an_unreadable_task_of_another_topic_gives_nothing_up(bus: Broker) -> None:
    unreadable = msgspec.to_builtins(task()) | {"seed": ""}
    event = cloudevents.encode(Envelope("1", "/server", "round.task", 0.0), unreadable)
    async with running(runner(bus, FakePlatform()).run()):
        await bus.publish(topics.task("fake", "client-01"), event)
        async for letter in dead_letters(bus):
            assert letter == event
            break
        await publish(bus, task("client-02"))
        records = await outcomes(bus, has("succeeded"))
    assert {record.client for record in records} == {"client-02"}


async def test_tasks_of_a_round_that_is_over_are_not_started(sdk: Client, bus: Broker) -> None:
    """After a round has closed at its quorum, its remaining tasks are not started."""
    release = asyncio.Event()

    class Clients(FakePlatform):
        async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
            async for activation in super().invoke(task, attempt):
                if activation.state == "succeeded" and task.client_id != "client-03":
                    await fakes.answer(bus, task, attempt)
                yield activation

    def block_one_client(task: RoundTask, _: int) -> "asyncio.Future[None] | None":
        return asyncio.ensure_future(_released(release)) if task.client_id == "client-03" else None

    platform = Clients(block_one_client)
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), runner(bus, platform).run()), asyncio.timeout(WITHIN_S):
        job = await sdk.submit(fakes.job(cohort={"quorum": 3, "grace_s": 0.05}, stop={"rounds": 1}))
        assert [message.event.what async for message in sdk.watch(job)][-1] == "job.completed"
        release.set()
        late = task("client-02", job=job)
        await publish(bus, late, "late")
        await outcomes(
            bus, lambda records: any(record.outcome == "expired" and record.job == job for record in records)
        )
    assert platform.calls.count(("client-02", 1)) == 1
