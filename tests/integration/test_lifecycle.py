"""Functions created, listed and deleted by messages, on a platform that a test can follow by hand."""

import asyncio
import hashlib
import time

import msgspec
import pytest

from bridges import Invoker, Lifecycle, RetryPolicy, Runner
from broker import topics
from broker.base import Broker
from broker.messages import cloudevents, codec, invocation
from broker.messages.function import Function, Reply, Request, Verb
from broker.messages.invocation import Invocation
from broker.messages.round import BlobRef, RoundTask
from tests.support.fake_platforms import WITHIN_S, FakeManagedPlatform, deployed, publish
from tests.support.fakes import running
from tests.support.tasks import FAR, task

ECHO = Function(name="client-00", fabric="test", image="echo:1")


async def ask(bus: Broker, verb: Verb, deadline_s: float = FAR, **what: object) -> Reply:
    request = Request(id=f"request-{verb}-{time.monotonic_ns()}", deadline_s=deadline_s, **what)  # type: ignore[arg-type]
    async with asyncio.timeout(WITHIN_S), bus.subscribe(topics.reply(request.id)) as replies:
        await bus.publish(topics.fabric("fake", verb), msgspec.json.encode(request))
        async for delivery in replies:
            return codec.decode(Reply, await delivery.read())
    raise AssertionError


async def test_functions_are_created_changed_listed_and_deleted(bus: Broker) -> None:
    host = FakeManagedPlatform()
    async with running(Lifecycle(bus, host.name, host).serve()):
        assert (await ask(bus, "create", function=ECHO)).change == "created"
        assert (await ask(bus, "create", function=ECHO)).change == "same"
        newer = msgspec.structs.replace(ECHO, image="echo:2")
        assert (await ask(bus, "create", function=newer)).change == "updated"
        assert (await ask(bus, "list")).functions == (deployed(newer),)
        assert (await ask(bus, "delete", name="client-00")).change == "deleted"
        assert (await ask(bus, "delete", name="client-00")).change == "absent"
        assert (await ask(bus, "list")).functions == ()


async def test_a_functions_code_comes_with_the_request_by_its_digest(bus: Broker) -> None:
    code = b"the archive"
    ref = BlobRef(topics.package(hashlib.sha256(code).hexdigest()), hashlib.sha256(code).hexdigest(), len(code))
    await bus.put(ref.topic, code)
    host = FakeManagedPlatform()
    async with running(Lifecycle(bus, host.name, host).serve()):
        await ask(bus, "create", function=msgspec.structs.replace(ECHO, package=ref))
        missing = msgspec.structs.replace(ref, topic=topics.package("00"))
        refused = await ask(bus, "create", function=msgspec.structs.replace(ECHO, package=missing))
    assert host.packages == {"client-00": code}
    assert "package is not with the broker" in refused.error


async def test_other_bytes_under_the_digest_of_a_package_are_not_deployed(bus: Broker) -> None:
    digest = hashlib.sha256(b"the archive").hexdigest()
    ref = BlobRef(topics.package(digest), digest, 11)
    await bus.put(ref.topic, b"another one")
    host = FakeManagedPlatform()
    async with running(Lifecycle(bus, host.name, host).serve()):
        refused = await ask(bus, "create", function=msgspec.structs.replace(ECHO, package=ref))
    assert host.packages == {}
    assert "holds other bytes than the package" in refused.error


async def test_a_request_with_a_name_that_no_topic_has_is_answered_once(bus: Broker) -> None:
    host = FakeManagedPlatform()
    async with running(Lifecycle(bus, host.name, host).serve()):
        assert "not a usable name" in (await ask(bus, "delete", name="No Name!")).error
        nowhere = msgspec.structs.replace(ECHO, package=BlobRef("fl.jobs.submit", "00", 1))
        assert "FIRST or LAST" in (await ask(bus, "create", function=nowhere)).error


async def test_what_can_not_be_done_is_answered_with_its_reason(bus: Broker) -> None:
    async with running(Lifecycle(bus, "fake", FakeManagedPlatform(full=True)).serve()):
        assert (await ask(bus, "create", function=ECHO)).error == "fake could not create client-00: no room"
        assert "no such request" in (await ask(bus, "delete")).error
        assert await bus.get(topics.function("fake", "client-00")) is None


async def test_invalid_and_expired_requests_are_skipped(bus: Broker) -> None:
    host = FakeManagedPlatform()
    late = Request(id="late", deadline_s=1.0, function=ECHO)
    await bus.publish(topics.fabric("fake", "create"), b"garbage")
    await bus.publish(topics.fabric("fake", "create"), msgspec.json.encode(late))
    async with running(Lifecycle(bus, host.name, host).serve()):
        assert (await ask(bus, "list")).functions == ()


async def outcomes(bus: Broker, until: str) -> list[Invocation]:
    records: list[Invocation] = []
    async with asyncio.timeout(WITHIN_S), bus.subscribe(topics.invocation("fake", topics.ANY)) as deliveries:
        async for delivery in deliveries:
            records.append(cloudevents.data_of(await delivery.read(), Invocation))
            if records[-1].outcome == until:
                break
    return records


async def test_a_function_deleted_behind_our_back_is_created_again_and_invoked(bus: Broker) -> None:
    host = FakeManagedPlatform()
    lifecycle = Lifecycle(bus, host.name, host)
    runner = Runner(bus, Invoker(host, restore=lifecycle.restore))
    async with running(lifecycle.serve(), runner.run()):
        await ask(bus, "create", function=ECHO)
        host.functions.clear()
        await publish(bus, task())
        records = await outcomes(bus, "succeeded")
    assert [record.outcome for record in records] == ["restored", "accepted", "running", "succeeded"]
    assert host.functions == {"client-00": ECHO}


async def test_a_deleted_function_is_not_created_again_by_a_task(bus: Broker) -> None:
    host = FakeManagedPlatform()
    lifecycle = Lifecycle(bus, host.name, host)
    patience = RetryPolicy(retry_first_s=0.01)
    async with running(lifecycle.serve(), Runner(bus, Invoker(host, patience, restore=lifecycle.restore)).run()):
        await ask(bus, "create", function=ECHO)
        await ask(bus, "delete", name="client-00")
        await publish(bus, task())
        records = await outcomes(bus, "dead")
    assert "404" in records[-1].reason
    assert host.functions == {}


@pytest.mark.parametrize(("last", "again"), [("done", False), ("training", False), ("failed", True)])
async def test_a_bridge_that_takes_over_first_reads_the_function_s_last_report(
    bus: Broker, last: str, *, again: bool
) -> None:
    round_task = task()
    # The state that an earlier bridge left: the task was delivered once, and the function has reported.
    await publish(bus, round_task)
    async with bus.subscribe(topics.platform_tasks("fake"), durable="bridge-fake") as deliveries:
        await (await anext(deliveries)).nak()
    await put_report(bus, round_task, last)
    host = FakeManagedPlatform(functions={"client-00": ECHO})
    async with running(Runner(bus, Invoker(host)).run()):
        if last == "training":
            await outcomes(bus, "running")
            await put_report(bus, round_task, "done")
        await outcomes(bus, "succeeded")
    assert host.invoked == ([("client-00", 2)] if again else [])


async def test_a_run_of_an_earlier_bridge_that_fails_is_triggered_again_at_once(bus: Broker) -> None:
    round_task = task()
    await publish(bus, round_task)
    async with bus.subscribe(topics.platform_tasks("fake"), durable="bridge-fake") as deliveries:
        await (await anext(deliveries)).nak()
    await put_report(bus, round_task, "training")
    host = FakeManagedPlatform(functions={"client-00": ECHO})
    async with running(Runner(bus, Invoker(host)).run()):
        await outcomes(bus, "running")
        await put_report(bus, round_task, "failed")
        await outcomes(bus, "succeeded")
    assert host.invoked == [("client-00", 2)]


async def test_a_silent_platform_and_a_function_that_reports_make_a_whole(bus: Broker) -> None:
    round_task, host = task(), FakeManagedPlatform(functions={"client-00": ECHO}, silent=True)
    async with running(Runner(bus, Invoker(host, RetryPolicy(start_s=WITHIN_S))).run()):
        await publish(bus, round_task)
        await outcomes(bus, "accepted")
        await put_report(bus, round_task, "training", attempt=1)
        await outcomes(bus, "running")
        await put_report(bus, round_task, "done", attempt=1)
        records = await outcomes(bus, "succeeded")
    assert [(record.outcome, record.activation, record.cold) for record in records] == [
        ("accepted", "a1", None),
        ("running", "a1", True),
        ("succeeded", "a1", None),
    ]


async def test_a_report_about_another_clients_task_changes_nothing(bus: Broker) -> None:
    round_task, host = task(), FakeManagedPlatform(functions={"client-00": ECHO}, silent=True)
    forged = msgspec.json.encode(invocation.Report(round_task.id, "failed", reason="sorry", retryable=False, attempt=1))
    async with running(Runner(bus, Invoker(host, RetryPolicy(start_s=WITHIN_S))).run()):
        await publish(bus, round_task)
        await outcomes(bus, "accepted")
        await bus.put(topics.report("fake", "client-99"), forged)
        await put_report(bus, round_task, "training", attempt=1)
        await outcomes(bus, "running")
        await put_report(bus, round_task, "done", attempt=1)
        async with asyncio.timeout(WITHIN_S):
            records = await outcomes(bus, "succeeded")
    assert [record.outcome for record in records] == ["accepted", "running", "succeeded"]


@pytest.mark.parametrize("id_", ["request-1", "No Id!"])
async def test_a_request_of_a_newer_version_is_answered_with_what_to_upgrade(bus: Broker, id_: str) -> None:
    newer = {"id": id_, "function": {"schema": 2}}
    async with (
        running(Lifecycle(bus, "fake", FakeManagedPlatform()).serve()),
        bus.subscribe(topics.reply("request-1")) as replies,
    ):
        await bus.publish(topics.fabric("fake", "create"), msgspec.json.encode(newer))
        if id_ == "request-1":
            async with asyncio.timeout(WITHIN_S):
                reply = codec.decode(Reply, await (await anext(aiter(replies))).read())
            assert "upgrade this bridge to the version that deploys the functions" in reply.error
        assert (await ask(bus, "list")).functions == ()


async def put_report(bus: Broker, task: RoundTask, state: str, attempt: int = 1) -> None:
    report = invocation.Report(task.id, state, cold=True, attempt=attempt, activation="inside")  # type: ignore[arg-type]
    await bus.put(topics.report("fake", task.client_id), msgspec.json.encode(report))
