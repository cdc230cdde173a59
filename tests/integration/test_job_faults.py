"""Repeated, invalid and forged messages: they change no model and stop no job."""

import asyncio
from typing import Any

import msgspec
import numpy as np
import pytest

from broker import topics
from broker.base import Broker
from broker.messages import progress
from broker.messages.round import RoundTask, nonce
from fedkeeper.errors import JobRefused
from fedkeeper.sdk import Client
from server import invitations
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.job_progress import WITHIN_S, digest, events_of, watch_to_end

SECRET = "known to the test"  # noqa: S105 (not a real one)
FORGED = b'\xffFKCHUNKS1{"sha256":"' + b"0" * 64 + b'","size":9000000,"chunk_bytes":1048576}'


async def test_every_task_and_every_update_twice_gives_the_same_model(sdk: Client, bus: Broker) -> None:
    async def twice(bus: Broker, task: RoundTask) -> None:
        for attempt in (1, 1, 2):
            await fakes.answer(bus, task, attempt)

    async def tasks_again() -> None:
        """Publish every task again, like a server that does not know whether it has published it."""
        async with bus.subscribe(topics.progress(topics.ANY, "round", "opened"), start="new") as opened:
            async for delivery in opened:
                message = progress.decode(await delivery.read())
                record = await sdk.job(message.job)
                round_nonce = nonce(SECRET, record.id, record.round)
                await invitations.send(bus, record, round_nonce)

    once, doubled = Fleet(bus), Fleet(bus, twice)
    await sdk.register(fakes.clients(10))
    async with running(serve(bus, FakeLearning()), once.serve()):
        first = await sdk.submit(fakes.job())
        await watch_to_end(sdk, first)
    async with running(serve(bus, FakeLearning(), secret=lambda: SECRET), doubled.serve(), tasks_again()):
        second = await sdk.submit(fakes.job())
        messages = await watch_to_end(sdk, second)

    assert await digest(sdk, first) == await digest(sdk, second)
    assert len(events_of(messages, progress.UpdateCounted)) == 8


async def test_bad_updates_are_refused_with_a_reason_and_change_nothing(sdk: Client, bus: Broker) -> None:
    async def with_rubbish(bus: Broker, task: RoundTask) -> None:
        # Otherwise the first refusal would be the client's answer.
        await fakes.report(bus, task, "running", attempt=20)
        good = fakes.trained(await fakes.base_of(bus, task), task)
        bad = {name: array.copy() for name, array in good.items()}
        bad["layer.weight"][0, 0] = np.nan
        huge = {**good, "layer.bias": good["layer.bias"] + np.float32(1e9)}
        rubbish: list[tuple[str, bytes]] = [
            ("malformed", b"rubbish"),
            ("finite", fakes.update(bad, fakes.header(task, 2))),
            ("magnitude", fakes.update(huge, fakes.header(task, 3))),
            ("layout", fakes.update({"layer.weight": good["layer.weight"]}, fakes.header(task, 4))),
            ("token", fakes.update(good, fakes.header(task, 5, token="0" * 64))),
            ("base", fakes.update(good, fakes.header(task, 6, base="0" * 64))),
            ("samples", fakes.update(good, fakes.header(task, 7, samples=1000))),
            ("foreign", fakes.update(good, fakes.header(task, 9, client="client-99"))),
        ]
        for attempt, (_, content) in enumerate(rubbish, start=1):
            await bus.publish(topics.update(task.job, task.round, task.client_id, attempt), content)
        early = topics.update(task.job, task.round + 7, task.client_id, 1)
        await bus.publish(early, fakes.update(good, fakes.header(task, round=task.round + 7)))
        await fakes.answer(bus, task, 20)
        await bus.publish(topics.update(task.job, task.round, task.client_id, 21), b"too late")

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        clean = await sdk.submit(fakes.job())
        await watch_to_end(sdk, clean)
    async with running(serve(bus, FakeLearning()), Fleet(bus, with_rubbish).serve()):
        attacked = await sdk.submit(fakes.job())
        messages = await watch_to_end(sdk, attacked)

    assert await digest(sdk, clean) == await digest(sdk, attacked)
    codes = {event.code for event in events_of(messages, progress.UpdateRefused)}
    assert codes >= {"malformed", "finite", "magnitude", "layout", "token", "base", "samples", "foreign", "early"}
    assert codes & {"duplicate", "late"}


@pytest.mark.parametrize(
    ("job", "field"),
    [
        ({"cohort": {"clients": 0}}, "cohort.clients"),
        ({"training": {"loss": "hinge"}}, "training.loss"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_refused_job_names_the_field_and_the_server_stays_up(
    sdk: Client, bus: Broker, job: dict[str, Any], field: str
) -> None:
    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        await bus.publish(topics.submission("refused"), msgspec.json.encode(job))
        with pytest.raises(JobRefused, match=field) as refused:
            async with asyncio.timeout(WITHIN_S):
                await sdk.wait_until_accepted("refused")
        assert refused.value.field == field
        good = await sdk.submit(fakes.job())
        assert (await watch_to_end(sdk, good))[-1].event.what == "job.completed"


async def test_a_job_record_of_a_newer_schema_is_not_changed(sdk: Client, bus: Broker) -> None:
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()), asyncio.timeout(WITHIN_S):
        job = await sdk.submit(fakes.job())
        async for message in sdk.watch(job):
            if message.event.what == "job.waiting":
                break
        value = await bus.get(topics.job_record(job))
        assert value is not None
        newer = msgspec.json.encode({"id": job, "schema": 2, "rounds": "in another shape"})
        await bus.put(topics.job_record(job), newer, revision=value.revision)
        await bus.publish(topics.cancellation(job), b"{}")
        await sdk.register(fakes.clients(4))
        good = await sdk.submit(fakes.job())
        assert (await watch_to_end(sdk, good))[-1].event.what == "job.completed"
    remaining = await bus.get(topics.job_record(job))
    assert remaining is not None
    assert remaining.payload == newer


async def test_invalid_bytes_in_the_register_and_in_a_manifest_do_not_stop_a_job(sdk: Client, bus: Broker) -> None:
    async def after_a_bad_manifest(bus: Broker, task: RoundTask) -> None:
        # The first bytes of a manifest of chunks, followed by bytes that are not UTF-8.
        await bus._publish(topics.update(task.job, task.round, task.client_id, 1), b"\xffFKCHUNKS1\xff\xfe", None)
        await fakes.answer(bus, task, 2)

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, after_a_bad_manifest).serve()):
        await bus.put(topics.client("rubbish"), b"\xff\xfe")
        job = await sdk.submit(fakes.job())
        messages = await watch_to_end(sdk, job)
    assert messages[-1].event.what == "job.completed"
    assert {event.code for event in events_of(messages, progress.UpdateRefused)} == {"malformed"}


async def test_forged_manifests_on_open_topics_do_not_stop_a_job(sdk: Client, bus: Broker) -> None:
    async def after_forgeries(bus: Broker, task: RoundTask) -> None:
        # A manifest of chunks that are not stored.
        for topic in (
            topics.invocation("fake", task.client_id),
            topics.progress(task.job, "round", "opened"),
            topics.progress(task.job, "job", "waiting"),
        ):
            await bus._publish(topic, FORGED, None)
        await fakes.answer(bus, task)

    await sdk.register(fakes.clients(4))
    async with running(serve(bus, FakeLearning()), Fleet(bus, after_forgeries).serve()):
        messages = await watch_to_end(sdk, await sdk.submit(fakes.job()))
    assert messages[-1].event.what == "job.completed"
