"""Events: at least once, acknowledged, in the order of the log."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from broker import Broker, Delivery, topics
from broker.errors import BadTopic, Unsupported
from tests.contract.capabilities import numbers
from tests.support.brokers import REDELIVERY_S

SOON_S = 60.0
AT_ONCE_S = 10.0
"""Less than the 15 s after which a broker delivers again, and than any heartbeat or expiry adds up to."""

NEVER_S = 0.2

TASK = topics.task("openfaas", "client-1")
TASKS = topics.platform_tasks("openfaas")
PROGRESS = topics.progress("job-1", "round", "completed")
JOB_PROGRESS = topics.job_progress("job-1")

Events = AsyncIterator[Delivery]
Connect = Callable[[], AbstractAsyncContextManager[Broker]]


async def following(events: Events) -> Delivery:
    return await asyncio.wait_for(anext(events), SOON_S)


async def is_silent(events: Events) -> bool:
    try:
        await asyncio.wait_for(anext(events), NEVER_S)
    except TimeoutError:
        return True
    return False


async def test_a_delivery_has_the_published_topic_payload_and_time(kind: str, bus: Broker) -> None:
    before_s = dt.datetime.now(tz=dt.UTC).timestamp()
    receipt = await bus.publish(PROGRESS, b"{}")
    async with bus.subscribe(JOB_PROGRESS, durable="watcher") as events:
        event = await following(events)
    assert (event.topic, await event.read(), event.attempt) == (PROGRESS, b"{}", 1)
    assert (receipt.sequence, receipt.stored) == (event.sequence, True)
    assert numbers(kind, [event.sequence]) == [1]
    assert before_s - 1 < event.time_s < before_s + SOON_S


@pytest.mark.slow
async def test_an_unacknowledged_event_is_redelivered(short_ack_wait_bus: Broker) -> None:
    await short_ack_wait_bus.publish(TASK, b"train")
    loop = asyncio.get_running_loop()
    async with short_ack_wait_bus.subscribe(TASKS, durable="bridge") as events:
        await following(events)
        taken_s = loop.time()
        again = await following(events)
        assert (await again.read(), again.attempt) == (b"train", 2)
        assert loop.time() - taken_s > REDELIVERY_S * 0.9


@pytest.mark.slow
async def test_an_acknowledged_event_is_not_redelivered(short_ack_wait_bus: Broker) -> None:
    await short_ack_wait_bus.publish(TASK, b"train")
    async with short_ack_wait_bus.subscribe(TASKS, durable="bridge") as events:
        await (await following(events)).ack()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), REDELIVERY_S * 1.5)


async def test_nak_brings_it_back_after_its_delay_and_not_before(bus: Broker) -> None:
    await bus.publish(TASK, b"train")
    loop = asyncio.get_running_loop()
    async with bus.subscribe(TASKS, durable="bridge") as events:
        event = await following(events)
        given_back_s = loop.time()
        await event.nak(0.2)
        again = await following(events)
        assert loop.time() - given_back_s > 0.19
        await again.nak()
        assert (await following(events)).attempt == 3


async def test_what_is_given_back_after_its_subscription_has_ended_goes_to_the_next_at_once(connect: Connect) -> None:
    """An orderly stop: a bridge ends its subscription first, then its work."""
    async with connect() as first, connect() as second:
        await first.publish(TASK, b"train")
        async with first.subscribe(TASKS, durable="bridge") as events:
            event = await following(events)
        await event.nak()
        async with asyncio.timeout(AT_ONCE_S), second.subscribe(TASKS, durable="bridge") as events:
            again = await anext(events)
            assert (await again.read(), again.attempt) == (b"train", 2)
            await again.ack()


@pytest.mark.slow
async def test_working_puts_redelivery_off(short_ack_wait_bus: Broker) -> None:
    await short_ack_wait_bus.publish(TASK, b"train")
    async with short_ack_wait_bus.subscribe(TASKS, durable="bridge") as events:
        event = await following(events)
        for _ in range(4):
            await asyncio.sleep(REDELIVERY_S * 0.5)
            await event.working()
        assert await is_silent(events)
        await event.ack()


async def test_competing_subscribers_share_the_events(connect: Connect) -> None:
    count = 40
    seen: list[int] = []
    done = asyncio.Event()
    both_have_one = asyncio.Barrier(2)

    async def work() -> None:
        async with connect() as bus, bus.subscribe(TASKS, durable="bridge", prefetch=2) as events:
            first = await anext(events)
            await both_have_one.wait()
            seen.append(int(await first.read()))
            await first.ack()
            async for event in events:
                seen.append(int(await event.read()))
                await event.ack()
                if len(seen) >= count:
                    done.set()

    async with asyncio.timeout(SOON_S), connect() as bus, asyncio.TaskGroup() as group:
        workers = [group.create_task(work()) for _ in range(2)]
        for number in range(count):
            await bus.publish(TASK, str(number).encode())
        await done.wait()
        for worker in workers:
            worker.cancel()
    assert sorted(seen) == list(range(count))


async def test_a_replay_sees_everything_in_order(kind: str, bus: Broker) -> None:
    await asyncio.gather(*(bus.publish(PROGRESS, str(number).encode()) for number in range(100)))
    async with bus.subscribe(JOB_PROGRESS, prefetch=7) as events:
        replay = [await following(events) for _ in range(100)]
        await bus.publish(PROGRESS, b"live")
        assert await (await following(events)).read() == b"live"
    assert numbers(kind, [event.sequence for event in replay]) == list(range(1, 101))
    assert {await event.read() for event in replay} == {str(number).encode() for number in range(100)}


async def test_two_replays_do_not_compete(bus: Broker) -> None:
    await bus.publish(PROGRESS, b"1")
    async with bus.subscribe(JOB_PROGRESS) as first, bus.subscribe(JOB_PROGRESS) as other:
        assert (await following(first)).sequence == (await following(other)).sequence > 0


@pytest.mark.parametrize("durable", [None, "watcher"])
async def test_new_begins_with_what_comes_next(bus: Broker, durable: str | None) -> None:
    await bus.publish(PROGRESS, b"old")
    async with bus.subscribe(JOB_PROGRESS, durable=durable, start="new") as events:
        await bus.publish(PROGRESS, b"new")
        assert await (await following(events)).read() == b"new"


@pytest.mark.parametrize("durable", [None, "watcher"])
async def test_a_start_time_leaves_out_what_is_older(bus: Broker, durable: str | None) -> None:
    await bus.publish(PROGRESS, b"old")
    await asyncio.sleep(0.05)
    start = dt.datetime.now(tz=dt.UTC)
    await asyncio.sleep(0.05)
    await bus.publish(PROGRESS, b"new")
    async with bus.subscribe(JOB_PROGRESS, durable=durable, start=start) as events:
        assert await (await following(events)).read() == b"new"


async def test_a_durable_goes_on_where_it_was(bus: Broker) -> None:
    for payload in (b"1", b"2"):
        await bus.publish(PROGRESS, payload)
    async with bus.subscribe(JOB_PROGRESS, durable="watcher", prefetch=1) as events:
        await (await following(events)).ack()
    async with bus.subscribe(JOB_PROGRESS, durable="watcher", start="new") as events:
        assert await (await following(events)).read() == b"2"


async def test_prefetch_bounds_what_is_held(bus: Broker) -> None:
    for number in range(5):
        await bus.publish(TASK, str(number).encode())
    async with (
        bus.subscribe(TASKS, durable="bridge", prefetch=2) as first,
        bus.subscribe(TASKS, durable="bridge", prefetch=2) as other,
    ):
        unacknowledged = [await following(first), await following(first)]
        blocked = asyncio.ensure_future(anext(first))
        others = [await following(other), await following(other)]
        done, _ = await asyncio.wait((blocked,), timeout=NEVER_S)
        assert not done
        await unacknowledged[0].ack()
        assert await (await asyncio.wait_for(blocked, SOON_S)).read() == b"4"
    assert {await event.read() for event in unacknowledged + others} == {b"0", b"1", b"2", b"3"}


async def test_the_next_event_comes_as_soon_as_the_only_one_is_acknowledged(bus: Broker) -> None:
    for number in range(20):
        await bus.publish(TASK, str(number).encode())
    async with asyncio.timeout(AT_ONCE_S), bus.subscribe(TASKS, durable="bridge", prefetch=1) as events:
        for number in range(20):
            event = await anext(events)
            assert await event.read() == str(number).encode()
            await event.ack()


async def test_what_a_subscriber_did_not_look_at_goes_to_the_next_one_at_once(bus: Broker) -> None:
    for number in range(4):
        await bus.publish(TASK, str(number).encode())
    async with bus.subscribe(TASKS, durable="bridge") as events:
        await (await following(events)).ack()
    async with asyncio.timeout(AT_ONCE_S), bus.subscribe(TASKS, durable="bridge") as events:
        rest = [await anext(events) for _ in range(3)]
    assert {await event.read() for event in rest} == {b"1", b"2", b"3"}


async def test_a_wait_that_was_given_up_loses_nothing(bus: Broker) -> None:
    async with bus.subscribe(JOB_PROGRESS) as replay, bus.subscribe(JOB_PROGRESS, durable="watcher") as shared:
        for events in (replay, shared):
            assert await is_silent(events)
        await bus.publish(PROGRESS, b"1")
        for events in (replay, shared):
            assert await (await following(events)).read() == b"1"


async def test_a_filter_leaves_other_topics_out(bus: Broker) -> None:
    await bus.publish(topics.progress("job-2", "round", "completed"), b"other")
    await bus.publish(PROGRESS, b"ours")
    async with bus.subscribe(JOB_PROGRESS) as first, bus.subscribe(topics.job_progress(topics.ANY)) as every:
        assert await (await following(first)).read() == b"ours"
        assert [await (await following(every)).read() for _ in range(2)] == [b"other", b"ours"]


async def test_the_first_write_wins(bus: Broker) -> None:
    topic = topics.update("job-1", 1, "client-1", 1)
    first, second = await bus.publish(topic, b"first"), await bus.publish(topic, b"second")
    assert (first.stored, second.stored, second.sequence) == (True, False, first.sequence)
    async with bus.subscribe(topics.round_updates("job-1", 1)) as events:
        assert await (await following(events)).read() == b"first"
        assert await is_silent(events)


@pytest.mark.parametrize("topic", [PROGRESS, TASK, topics.SUBMIT, topics.update("job-1", 1, "client-1", 1)])
async def test_an_event_with_the_id_of_an_earlier_one_is_dropped(bus: Broker, topic: str) -> None:
    first = await bus.publish(topic, b"1", dedupe="same")
    second = await bus.publish(topic, b"1", dedupe="same")
    assert (first.stored, second.stored, second.sequence) == (True, False, first.sequence)


async def test_an_event_may_be_empty(bus: Broker) -> None:
    await bus.publish(PROGRESS, b"")
    async with bus.subscribe(JOB_PROGRESS) as events:
        assert await (await following(events)).read() == b""


async def test_a_purge_leaves_other_jobs_alone(bus: Broker) -> None:
    for job in ("job-1", "job-2"):
        await bus.publish(topics.update(job, 1, "client-1", 1), job.encode())
    await bus.purge(topics.job_updates("job-1"))
    async with bus.subscribe("fl.updates.>") as events:
        assert await (await following(events)).read() == b"job-2"
        assert await is_silent(events)
    assert (await bus.publish(topics.update("job-1", 1, "client-1", 1), b"again")).stored


async def test_a_queue_has_no_replay_and_one_durable_per_topic(bus: Broker) -> None:
    with pytest.raises(Unsupported):
        async with bus.subscribe(TASKS):
            pass
    with pytest.raises(Unsupported):
        async with bus.subscribe(TASKS, durable="bridge", start="new"):
            pass
    async with bus.subscribe(TASKS, durable="bridge"):
        with pytest.raises(Unsupported):
            async with bus.subscribe(TASK, durable="another"):
                pass


async def test_a_topic_that_is_kept_nowhere_is_refused(bus: Broker) -> None:
    with pytest.raises(BadTopic):
        await bus.publish("fl.nowhere.at-all", b"")
    with pytest.raises(BadTopic):
        async with bus.subscribe("fl.>"):
            pass


async def test_an_unexpected_reply_is_ignored(bus: Broker) -> None:
    await bus.publish(topics.SUBMIT, b"{}")
    async with bus.subscribe(topics.SUBMIT, durable="server") as events:
        event = await following(events)
        await event.answer(b"accepted")
        await event.ack()
        assert await is_silent(events)


async def test_the_error_of_the_body_comes_out_as_it_is(bus: Broker) -> None:
    async def fail() -> None:
        async with bus.subscribe(JOB_PROGRESS):
            raise LookupError("ours")

    with pytest.raises(LookupError, match="ours"):
        await fail()


async def test_a_reader_has_caught_up_when_it_has_taken_all_that_was_there(bus: Broker) -> None:
    for number in range(5):
        await bus.publish(PROGRESS, b"%d" % number)
    await bus.publish(topics.progress("job-2", "round", "completed"), b"of another job")
    taken: list[bytes] = []

    async def take(events: Events) -> None:
        async for event in events:
            await asyncio.sleep(0)
            taken.append(await event.read())

    async with bus.subscribe(JOB_PROGRESS) as events:
        taking = asyncio.create_task(take(events))
        try:
            await asyncio.wait_for(events.catch_up(), SOON_S)
            assert taken == [b"0", b"1", b"2", b"3", b"4"]
            await bus.publish(PROGRESS, b"5")
            await asyncio.wait_for(events.catch_up(), SOON_S)
            assert taken[-1] == b"5"
        finally:
            taking.cancel()


async def test_a_reader_of_an_empty_or_purged_log_has_caught_up(bus: Broker) -> None:
    async with bus.subscribe(JOB_PROGRESS) as events:
        taking = asyncio.create_task(following(events))
        await asyncio.wait_for(events.catch_up(), SOON_S)
        taking.cancel()
    await bus.publish(PROGRESS, b"deleted")
    await bus.purge(JOB_PROGRESS)
    async with bus.subscribe(JOB_PROGRESS) as events:
        taking = asyncio.create_task(following(events))
        await asyncio.wait_for(events.catch_up(), SOON_S)
        taking.cancel()


async def test_a_reader_of_new_events_has_caught_up_with_older_ones(bus: Broker) -> None:
    await bus.publish(PROGRESS, b"older")
    async with bus.subscribe(JOB_PROGRESS, start="new") as events:
        taking = asyncio.ensure_future(anext(events))
        await asyncio.wait_for(events.catch_up(), SOON_S)
        assert not taking.done()
        taking.cancel()
