"""The emulated Cloud Functions run real functions as Google does, and get the bridge's requests."""

import asyncio
import base64
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from bridges.gcf import GcfPlatform, Settings
from broker.messages import codec
from broker.messages.invocation import InvocationRequest
from broker.support import processes
from emulators.gcf.cloud import Cloud
from tests.support.fakes import soon
from tests.support.gcf_site import (
    WITHIN_S,
    Sink,
    archive,
    bridge,
    function,
    publish,
    running,
    settings,
    sinking,
    task,
)
from tests.support.paths import REPOSITORY

PARENT = "projects/test-project/locations/europe-west1"
NAME = f"{PARENT}/functions/client-00"


@pytest.fixture
async def cloud(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cloud]:
    async with running(monkeypatch) as both:
        yield both


@pytest.fixture
async def platform(cloud: Cloud) -> AsyncIterator[GcfPlatform]:
    async with bridge(settings(cloud)) as platform:
        yield platform


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    async with sinking() as sink:
        yield sink


async def deployed(platform: GcfPlatform, sink: Sink, *names: str, **changes: Any) -> None:
    for name in names or ("client-00",):
        await platform.functions.create(function(name, env={"SINK": sink.url}, **changes), archive())


async def test_a_request_starts_a_function_and_reaches_it(cloud: Cloud, platform: GcfPlatform, sink: Sink) -> None:
    cloud.functions.secrets = {"broker-password": "pw", "gcf-key": "key"}
    await deployed(platform, sink, password="broker-password", key="gcf-key")  # noqa: S106 (its name)
    service = cloud.functions.services[NAME]
    assert (service.is_live, service.starts) == (False, 0)
    ids = [await publish(platform, task(), attempt) for attempt in (1, 2)]
    first, second = [await sink.calls.get() for _ in ids]
    assert (first["pid"], service.starts) == (second["pid"], 1)
    assert first["type"] == "google.cloud.pubsub.topic.v1.messagePublished"
    assert first["source"] == "//pubsub.googleapis.com/projects/test-project/topics/fedkeeper-client-00"
    assert {first["id"], second["id"]} == set(ids)
    requests = [
        codec.decode(InvocationRequest, base64.b64decode(call["data"]["message"]["data"])) for call in (first, second)
    ]
    assert sorted(each.attempt for each in requests) == [1, 2]
    assert requests[0].task == task()
    variables = {name: value for name, value in first["env"].items() if name.startswith(("FEDKEEPER", "K_SERVICE"))}
    assert variables == {
        "FEDKEEPER_URL": "nats://fl@broker:4222?password_env=FEDKEEPER_SECRET_BROKER_PASSWORD",
        "FEDKEEPER_CLIENT": "client-00",
        "FEDKEEPER_SECRET_BROKER_PASSWORD": "pw",
        "FEDKEEPER_KEY": "key",
        "K_SERVICE": "client-00",
    }
    assert "PUBSUB_EMULATOR_HOST" not in first["env"]


async def test_the_largest_request_is_delivered(cloud: Cloud, platform: GcfPlatform, sink: Sink) -> None:
    await deployed(platform, sink)
    await publish(platform, task(args={"text": "x" * 380_000}))
    assert len((await sink.calls.get())["data"]["message"]["data"]) > 500_000
    assert cloud.pubsub.pusher.dropped == []


async def test_an_event_that_the_function_raised_for_comes_again(
    cloud: Cloud, platform: GcfPlatform, sink: Sink
) -> None:
    await deployed(platform, sink)
    sink.answers.extend(["fail", "fail"])
    sent = await publish(platform, task())
    assert [(await sink.calls.get())["id"] for _ in range(3)] == [sent] * 3
    await cloud_is_quiet(cloud, 3)
    assert cloud.pubsub.pusher.statuses == [500, 500, 200]


async def cloud_is_quiet(cloud: Cloud, answers: int) -> None:
    """Wait for the responses to pushes. A response comes a moment after the function's own call."""
    await soon(lambda: len(cloud.pubsub.pusher.statuses) >= answers, WITHIN_S)


async def test_without_retries_it_does_not_come_again(cloud: Cloud, sink: Sink) -> None:
    async with bridge(settings(cloud, retry_policy="RETRY_POLICY_DO_NOT_RETRY")) as platform:
        await deployed(platform, sink)
        sink.answers.append("fail")
        ids = [await publish(platform, task())]
        await cloud_is_quiet(cloud, 1)
        ids.append(await publish(platform, task()))
        assert [(await sink.calls.get())["id"] for _ in ids] == ids
        assert [each.id for each in cloud.pubsub.pusher.dropped] == ids[:1]


async def test_an_event_may_come_twice(cloud: Cloud, platform: GcfPlatform, sink: Sink) -> None:
    await deployed(platform, sink)
    cloud.pubsub.duplicates = 1
    sent = await publish(platform, task())
    assert [(await sink.calls.get())["id"] for _ in range(2)] == [sent, sent]


async def test_an_instance_that_crashes_is_replaced_and_gets_the_event_again(
    cloud: Cloud, platform: GcfPlatform, sink: Sink
) -> None:
    await deployed(platform, sink)
    sink.open.clear()
    sent = await publish(platform, task())
    first = await sink.calls.get()
    await cloud.functions.crash(NAME)
    sink.open.set()
    second = await sink.calls.get()
    assert (first["id"], second["id"]) == (sent, sent)
    assert first["pid"] != second["pid"]
    await cloud_is_quiet(cloud, 2)
    assert cloud.pubsub.pusher.statuses == [503, 200]


async def test_a_function_has_one_event_at_a_time(cloud: Cloud, platform: GcfPlatform, sink: Sink) -> None:
    cloud.functions.run.pending_s = 0.1
    await deployed(platform, sink)
    sink.open.clear()
    await publish(platform, task(), 1)
    await sink.calls.get()
    await publish(platform, task(), 2)
    await cloud_is_quiet(cloud, 1)
    assert (cloud.pubsub.pusher.statuses[0], sink.calls.qsize()) == (HTTPStatus.TOO_MANY_REQUESTS, 0)
    sink.open.set()
    assert (await sink.calls.get())["data"]["message"]["attributes"]["attempt"] == "2"


async def test_the_event_of_a_function_that_takes_too_long_is_delivered_again(
    cloud: Cloud, platform: GcfPlatform, sink: Sink
) -> None:
    await deployed(platform, sink)
    cloud.functions.services[NAME].timeout_s = 0.2
    sink.open.clear()
    sent = await publish(platform, task())
    first, second = await sink.calls.get(), await sink.calls.get()
    assert (first["id"], second["id"]) == (sent, sent)
    assert first["pid"] == second["pid"]
    assert cloud.pubsub.pusher.statuses[0] == HTTPStatus.GATEWAY_TIMEOUT


async def test_no_more_instances_live_than_the_quota_allows(cloud: Cloud, platform: GcfPlatform, sink: Sink) -> None:
    cloud.functions.run.max_instances = 2
    names = ["client-00", "client-01", "client-02"]
    await deployed(platform, sink, *names)
    services = [cloud.functions.services[f"{PARENT}/functions/{name}"] for name in names]
    for count, number in enumerate((0, 1, 0, 2), start=1):
        await publish(platform, task(names[number]))
        await sink.calls.get()
        await cloud_is_quiet(cloud, count)
    assert [each.is_live for each in services] == [True, False, True]
    assert [each.starts for each in services] == [1, 1, 1]


async def test_code_that_does_not_load_is_tried_again_and_its_reason_is_kept(
    cloud: Cloud, platform: GcfPlatform, sink: Sink
) -> None:
    await platform.functions.create(function(env={"SINK": sink.url}), archive("import no_such_module"))
    await publish(platform, task())
    await cloud_is_quiet(cloud, 2)
    assert set(cloud.pubsub.pusher.statuses) == {HTTPStatus.SERVICE_UNAVAILABLE}
    assert any("no_such_module" in line for line in cloud.functions.services[NAME].output)


async def test_an_update_is_in_force_for_the_next_event(cloud: Cloud, platform: GcfPlatform, sink: Sink) -> None:
    await deployed(platform, sink)
    await publish(platform, task())
    old = await sink.calls.get()
    await cloud_is_quiet(cloud, 1)
    await platform.functions.create(function(env={"SINK": sink.url, "NEW": "1"}), archive())
    await publish(platform, task())
    new = await sink.calls.get()
    assert (old["env"].get("NEW"), new["env"].get("NEW")) == (None, "1")


async def test_a_function_that_is_deleted_has_its_process_ended(platform: GcfPlatform, sink: Sink) -> None:
    await deployed(platform, sink)
    await publish(platform, task())
    pid = (await sink.calls.get())["pid"]
    async with ended(pid):
        await platform.functions.delete("client-00")


@contextlib.asynccontextmanager
async def ended(pid: int) -> AsyncIterator[None]:
    """Wait after the block until a process has ended."""
    handle, gone = os.pidfd_open(pid), asyncio.Event()
    asyncio.get_running_loop().add_reader(handle, gone.set)
    try:
        yield
        async with asyncio.timeout(WITHIN_S):
            await gone.wait()
    finally:
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)], ids=["terminated", "killed"]
)
async def test_the_program_serves_both_and_takes_its_functions_with_it(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "broker-password").write_text("pw\n")
    program = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "emulators.gcf.cloud",
            "--operation-s",
            "0.01",
            "--secrets",
            str(tmp_path / "secrets"),
        ),
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # files of a killed program stay there
        stdout=PIPE,
        preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),
    )
    assert program.stdout is not None
    try:
        async with asyncio.timeout(WITHIN_S):
            word, pubsub, api = (await program.stdout.readline()).decode().split()
            assert word == "ready"
            monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub)
            async with bridge(Settings(project="test-project", api=api, poll_s=0.01)) as platform:
                await deployed(platform, sink, password="broker-password")  # noqa: S106 (its name)
                await publish(platform, task())
            call = await sink.calls.get()
            assert call["env"]["FEDKEEPER_SECRET_BROKER_PASSWORD"] == "pw"  # noqa: S105 (none)
            async with ended(call["pid"]):
                program.send_signal(number)
                assert await program.wait() == code
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
