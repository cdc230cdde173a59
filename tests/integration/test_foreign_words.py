"""What others say about a client, in messages that the server must not believe or that would spoil a job's record."""

import msgspec
import pytest

from broker import topics
from broker.base import Broker
from broker.messages import cloudevents, codec, progress
from broker.messages.cloudevents import Envelope
from broker.messages.invocation import Invocation
from broker.messages.register import ClientRecord, ClientStats
from broker.messages.round import RoundTask
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.job_progress import events_of, watch_to_end


async def say_that_it_is_dead(bus: Broker, task: RoundTask, platform: str, topic: str) -> None:
    dead = Invocation(
        job=task.job, round=task.round, client=task.client_id, platform=platform, attempt=1, outcome="dead"
    )
    await bus.publish(topic, cloudevents.encode(Envelope("dead", "/bridges/other", "invocation", 1e9), dead))


@pytest.mark.parametrize(
    ("platform", "topic"),
    [("other", "fl.invocations.other.client-00"), ("fake", "fl.invocations.other.client-00")],
    ids=["of its own platform", "of the client's platform, elsewhere"],
)
async def test_a_bridge_of_another_platform_ends_nobodys_training(
    sdk: Client, bus: Broker, platform: str, topic: str
) -> None:
    async def slander_and_answer(bus: Broker, task: RoundTask) -> None:
        if task.client_id == "client-00":
            await say_that_it_is_dead(bus, task, platform, topic)
            # On its own topic it is believed; both are read in order.
            forged = Invocation(
                job=task.job, round=task.round, client="client-01", platform="fake", attempt=1, outcome="running"
            )
            await bus.publish(
                topics.invocation("fake", "client-01"),
                cloudevents.encode(Envelope("running", "/bridges/fake", "invocation", 1e9), forged),
            )
        await fakes.answer(bus, task)

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, slander_and_answer).serve()):
        job = await sdk.submit(fakes.job(stop={"rounds": 1}))
        messages = await watch_to_end(sdk, job)
    assert events_of(messages, progress.ClientFailed) == []
    assert len(events_of(messages, progress.RoundCompleted)[0].counted) == 4


async def test_a_metric_without_measure_is_refused_and_the_job_s_record_stays_readable(
    sdk: Client, bus: Broker
) -> None:
    async def answer(bus: Broker, task: RoundTask) -> None:
        if task.client_id == "client-03":
            header = fakes.header(task, metrics={"loss": 1e308})
            await bus.publish(
                topics.update(task.job, task.round, task.client_id, 1),
                fakes.update(fakes.trained(await fakes.base_of(bus, task), task), header),
            )
        else:
            await fakes.answer(bus, task)

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, answer).serve()):
        # The server gives up a client whose answer is refused.
        job = await sdk.submit(fakes.job(stop={"rounds": 1}, cohort={"quorum": 3}))
        messages = await watch_to_end(sdk, job)
    assert [event.code for event in events_of(messages, progress.UpdateRefused)] == ["magnitude"]
    assert (await sdk.job(job)).phase == "completed"


async def test_a_flood_of_bad_updates_is_read_up_to_a_limit_and_announced_as_a_number(sdk: Client, bus: Broker) -> None:
    async def flood(bus: Broker, task: RoundTask) -> None:
        if task.client_id == "client-03":
            for attempt in range(2, 102):
                await bus.publish(topics.update(task.job, task.round, task.client_id, attempt), b"garbage")
        await fakes.answer(bus, task)

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, flood).serve()):
        job = await sdk.submit(fakes.job(stop={"rounds": 1}))
        refused = events_of(await watch_to_end(sdk, job), progress.UpdateRefused)
    assert [event.code for event in refused] == ["malformed"] * 16 + ["flood"]
    assert refused[-1].reason == "84 more updates of client-03 were refused in round 1"


async def test_lists_pass_over_what_they_can_not_read_or_believe(sdk: Client, bus: Broker) -> None:
    await sdk.register([ClientRecord(id="client-1", platform="edge")])
    stats = ClientStats(client="client-1", platform="edge", state="running", seen_s=1.0)
    await bus.put(topics.client_stats("edge", "client-1"), codec.encode(stats))
    async with running(serve(bus, FakeLearning())):
        job = await sdk.submit(fakes.job())
    record = await bus.get(topics.job_record(job))
    assert record is not None

    await bus.put(topics.job_record("broken"), record.payload.replace(b'"created_s":', b'"created_s":null,"x":'))
    await bus.put(topics.job_record("other"), record.payload)
    await bus.put(topics.client("client-2"), b"garbage")
    await bus.put(topics.client("client-3"), codec.encode(ClientRecord(id="client-1", platform="elsewhere")))
    await bus.put(topics.client_stats("edge", "client-2"), b"garbage")
    newer = msgspec.structs.replace(stats, seen_s=2.0, state="dead")
    await bus.put(topics.client_stats("other", "client-2"), codec.encode(newer))

    assert [each.id for each in await sdk.jobs()] == [job]
    assert [(each.id, each.platform) for each in await sdk.clients()] == [("client-1", "edge")]
    assert await sdk.client_stats() == {"client-1": stats}
