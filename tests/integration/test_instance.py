"""An instance with a real broker: threads, copies of requests, warm state, rights."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import broker
from broker import topics
from broker.messages import codec
from broker.messages import tensors as payload
from broker.messages.invocation import InvocationRequest, Report
from broker.messages.update import UpdateHeader
from broker.nats.server import NatsServer
from broker.support.tasks import task_group
from client_fn.data import shards, sources
from client_fn.errors import NoRoute
from client_fn.runtime.connection import LazyConnection
from client_fn.runtime.executor import REPORT_EVERY_S, TaskExecutor
from client_fn.runtime.instance import Instance
from client_fn.runtime.settings import Settings
from client_fn.training import tensors
from tests.support.function_site import Site, task_for
from tests.support.running_function import (
    SITE,
    TASK,
    WITHIN_S,
    RunningFunction,
    recording,
    reports_until,
    running_function,
)
from tests.support.trainers import warm_state
from tests.support.values import payload_of

pytestmark = pytest.mark.torch


@pytest.fixture
async def function(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RunningFunction]:
    async with running_function(nats_server, tmp_path, monkeypatch) as function:
        yield function


async def test_a_request_is_trained_published_and_reported(function: RunningFunction) -> None:
    function.hold.set()
    request = await function.request(attempt=2)
    async with task_group() as group:
        running = group.create_task(function.run(request, "activation-1"), name="run")
        begun = await reports_until(function, "training")
        function.hold.clear()
        report = await running
    expected = Report(TASK, "training", cold=True, attempt=2, activation="activation-1", every_s=REPORT_EVERY_S)
    assert begun == [expected]
    done = Report(TASK, "done", cold=True, attempt=2, activation="activation-1")
    assert report == await function.retained_report() == done
    arrays, header = await function.update(attempt=2)
    assert (header.samples, header.attempt, header.token) == (40, 2, request.task.token)
    assert arrays["hidden.weight"].shape == (8, 64)


async def test_a_long_training_is_reported_again_until_it_ends(
    function: RunningFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client_fn.runtime.executor.REPORT_EVERY_S", 0.01)
    function.hold.set()
    async with task_group() as group:
        running = group.create_task(function.run(await function.request()), name="run")
        async with asyncio.timeout(WITHIN_S), function.bus.watch(topics.report("local", topics.ANY)) as values:
            seen = [codec.decode(Report, payload_of(await anext(values))) for _ in range(3)]
        function.hold.clear()
        done = await running
    assert [(report.state, report.every_s) for report in seen] == [("training", 0.01)] * 3
    assert (await function.retained_report(), done.every_s) == (done, 0.0)


async def test_an_instance_keeps_its_connection_its_model_and_its_data(
    function: RunningFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []
    monkeypatch.setattr(sources, "fetch", recording(sources.fetch, read))
    for attempt in (1, 2, 3):
        assert (await function.run(await function.request(attempt))).state == "done"
    assert function.connections == ["function-c1"]
    assert [thread.name for thread in threading.enumerate()].count("instance") == 1
    assert len(read) == 1
    assert [(await function.update(attempt))[1].fetched > 0 for attempt in (1, 2, 3)] == [True, False, False]


async def test_only_the_first_request_is_cold(function: RunningFunction) -> None:
    colds: list[bool] = []
    for attempt in (1, 2):
        function.hold.set()
        async with task_group() as group:
            group.create_task(function.run(await function.request(attempt)), name="run")
            reports = [report for report in await reports_until(function, "training") if report.attempt == attempt]
            colds += [report.cold for report in reports]
            function.hold.clear()
    assert colds == [True, False]


async def test_a_copy_of_a_completed_request_gets_the_same_report(function: RunningFunction) -> None:
    request = await function.request()
    first = await function.run(request, "activation-1")
    await function.server.kill()
    assert await function.run(request, "activation-2") == first
    assert len(function.trainings) == 1


async def test_a_copy_of_a_running_request_waits_for_its_report(function: RunningFunction) -> None:
    function.hold.set()
    request = await function.request()
    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(function.instance.run, request, activation=f"activation-{i}") for i in range(4)]
        assert await asyncio.to_thread(function.begun.wait, WITHIN_S)
        function.hold.clear()
        reports = {await asyncio.wrap_future(run) for run in runs}
    assert [report.state for report in reports] == ["done"]
    assert len(function.trainings) == 1


async def test_a_cancelled_caller_does_not_cancel_the_training_of_another_caller(function: RunningFunction) -> None:
    function.hold.set()
    request = await function.request()
    async with task_group() as group:
        connection = LazyConnection(function.server.url, "own", group)
        executor = TaskExecutor("c1", connection, group, warm_state(), time.time)
        callers = [group.create_task(executor.execute(request, "", None), name=f"caller {i}") for i in range(2)]
        assert await asyncio.to_thread(function.begun.wait, WITHIN_S)
        callers[0].cancel()
        function.hold.clear()
        assert (await callers[1]).report.state == "done"
        connection.close()
    assert len(function.trainings) == 1


async def test_another_instance_finds_the_update_and_trains_nothing(function: RunningFunction) -> None:
    request = await function.request()
    await function.run(request, "activation-1")
    with Instance(function.instance.settings) as other:
        report = await function.run(request, "activation-2", other)
    done = Report(TASK, "done", cold=True, attempt=1, activation="activation-2")
    assert report == await function.retained_report() == done
    assert len(function.trainings) == 1


@pytest.mark.parametrize("other", ["garbage", "another update"])
async def test_another_message_on_the_update_s_topic_costs_an_attempt(function: RunningFunction, other: str) -> None:
    request = await function.request()
    if other == "garbage":
        await function.bus.publish(topics.update("job", 1, "c1", 1), b"garbage")
    else:
        await function.run(request)
        request = await function.request(token="another round's")  # noqa: S106 (not a real one)
    report = await function.run(request)
    assert (report.state, report.retryable) == ("failed", True)
    assert report.reason.startswith("TopicTaken")
    assert (await function.run(msgspec.structs.replace(request, attempt=2))).state == "done"


async def test_a_bundle_gives_the_same_update_as_the_broker(function: RunningFunction) -> None:
    request = await function.request()
    await function.run(request)
    arrays, header = await function.update()
    value = await function.bus.get(request.task.model.topic)
    assert value is not None
    with Instance(Settings(site=SITE)) as offline:
        blobs = {request.task.model.topic: value.payload}
        report, outputs = await asyncio.to_thread(offline.execute, request, blobs, activation="a")
        copy = await asyncio.to_thread(offline.execute, request, blobs)
        with pytest.raises(NoRoute):
            async with task_group() as group, LazyConnection("", "nobody", group).acquire():
                pass
    assert report == Report(TASK, "done", cold=True, attempt=1, activation="a")
    assert copy == (report, outputs)
    assert len(function.trainings) == 2
    decoded, metadata = payload.decode(outputs[topics.update("job", 1, "c1", 1)])
    assert {name: array.tobytes() for name, array in decoded.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }
    offline_header = UpdateHeader.from_metadata(metadata)
    assert msgspec.structs.replace(offline_header, seconds={}) == msgspec.structs.replace(header, seconds={})
    state_at = header.states["opt"].topic
    state = await function.bus.get(state_at)
    assert state is not None
    assert tensors.from_bytes(outputs[state_at]).keys() == tensors.from_bytes(state.payload).keys()
    assert outputs[state_at] == state.payload


RIGHTS = """
authorization {
  users: [
    { user: "fedkeeper", password: "admin" },
    { user: "c1", password: "s3cret", permissions: {
        publish: ["fl.updates.*.*.c1.*", "fl.state.*.c1.>", "fl.reports.*.c1",
                  "$JS.API.DIRECT.GET.FEDKEEPER_MODELS.fl.models.>",
                  "$JS.API.DIRECT.GET.FEDKEEPER_STATE.fl.state.*.c1.>"],
        subscribe: ["_INBOX_c1.>"] } },
  ]
}
"""


async def test_an_instance_needs_no_rights_but_its_own_client_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_loc = f"{tmp_path}/shard.safetensors"
    shards.write(data_loc, np.random.default_rng(1).random((10, 2, 2), dtype=np.float32), np.arange(10) % 3)
    monkeypatch.setenv("BROKER_PASSWORD", "s3cret")
    server = NatsServer(tmp_path / "strict", max_file_bytes=2 << 30, settings=RIGHTS)
    await server.start()
    try:
        async with broker.connect(f"nats://fedkeeper:admin@127.0.0.1:{server.port}") as bus:
            url = f"nats://c1@127.0.0.1:{server.port}?password_env=BROKER_PASSWORD"
            with Instance(Settings(url, "c1")) as limited:
                first, second = [InvocationRequest(await task_for(Site(bus, data_loc)), attempt) for attempt in (1, 2)]
                assert (await asyncio.to_thread(limited.run, first)).state == "done"
                assert (await asyncio.to_thread(limited.run, second)).state == "done"
            value = await bus.get(topics.report("local", "c1"))
            assert value is not None
            assert codec.decode(Report, value.payload).attempt == 2
    finally:
        await server.kill()
