"""An instance with a real broker: deadlines, lost connections, errors of models, bad requests."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from broker import topics
from broker.messages.errors import DecodeError
from broker.messages.invocation import RequestName
from broker.messages.round import TaskName
from broker.nats.server import NatsServer
from client_fn.data.shard_cache import Shard, ShardCache
from client_fn.runtime import instance
from client_fn.runtime.instance import Instance
from client_fn.runtime.settings import Settings
from client_fn.training import loop
from tests.support.running_function import TASK, WITHIN_S, RunningFunction, running_function

pytestmark = pytest.mark.torch


@pytest.fixture
async def function(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RunningFunction]:
    async with running_function(nats_server, tmp_path, monkeypatch) as function:
        yield function


async def test_a_request_after_its_deadline_is_not_started(function: RunningFunction) -> None:
    report = await function.run(await function.request(deadline_s=time.time() - 1))
    assert (report.state, report.retryable) == ("failed", False)
    assert report.reason.startswith("LeaseOver")
    assert report == await function.retained_report()
    assert (function.trainings, await function.bus.get(topics.update("job", 1, "c1", 1))) == ([], None)


async def test_a_request_for_another_client_is_refused(function: RunningFunction) -> None:
    request = await function.request(client_id="c2")
    report = await function.run(request)
    assert (report.state, report.retryable) == ("failed", False)
    assert report.reason.startswith("WrongClient: a task for c2, and this is the function of c1")
    with Instance(Settings(function.server.url)) as unbound:
        assert (await function.run(request, by=unbound)).state == "done"


@pytest.mark.slow
async def test_a_training_that_is_too_slow_ends_at_the_deadline(function: RunningFunction) -> None:
    # The first request does the slow work of a cold start.
    assert (await function.run(await function.request())).state == "done"
    function.begun.clear()
    function.hold.set()
    report = await function.run(await function.request(attempt=2, deadline_s=time.time() + 5))
    assert function.begun.is_set()
    assert (report.state, report.retryable) == ("failed", False)
    assert report.reason.startswith("LeaseOver")
    function.hold.clear()
    assert (await function.run(await function.request(attempt=3))).state == "done"


@pytest.mark.slow
async def test_a_caller_gets_a_report_although_its_model_never_returns(
    function: RunningFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def hangs(*_: Any, **__: Any) -> dict[str, float]:
        function.begun.set()
        released.wait(WITHIN_S)
        return {}

    # The first request does the slow work of a cold start before the time is measured.
    assert (await function.run(await function.request())).state == "done"
    function.begun.clear()
    monkeypatch.setattr(loop, "train", hangs)
    monkeypatch.setattr(instance, "GRACE_S", 0.1)
    begin_s = time.monotonic()
    report = await function.run(await function.request(attempt=2, deadline_s=time.time() + 5))
    took_s = time.monotonic() - begin_s
    released.set()
    assert (report.state, report.retryable) == ("failed", False)
    assert function.begun.is_set()
    assert took_s < WITHIN_S / 2


async def test_an_unreachable_broker_is_a_retryable_failure(function: RunningFunction) -> None:
    requests = [await function.request(attempt) for attempt in (1, 2)]
    await function.server.kill()
    report = await function.run(requests[0])
    assert (report.state, report.retryable, report.attempt) == ("failed", True, 1)
    assert report.reason.startswith("ConnectFailed")
    await function.server.start()
    assert (await function.run(requests[1])).state == "done"


async def test_a_connection_that_is_lost_between_two_requests_is_opened_again(function: RunningFunction) -> None:
    requests = [await function.request(attempt) for attempt in (1, 2)]
    assert (await function.run(requests[0])).state == "done"
    await function.server.kill()
    await function.server.start()
    assert (await function.run(requests[1])).state == "done"
    assert (await function.update(attempt=2))[1].fetched == 0


async def test_a_report_that_can_t_be_published_fails_no_task(function: RunningFunction) -> None:
    request = await function.request(client_type="No_Platform")
    with capture_logs() as logs:
        report = await function.run(request)
    assert report.state == "done"
    unpublished = [entry for entry in logs if entry["event"] == "a report did not reach the broker"]
    assert [entry["state"] for entry in unpublished] == ["training", "done"]
    assert {entry["log_level"] for entry in unpublished} == {"warning"}
    # A copy of the request publishes the report again.
    with capture_logs() as logs:
        assert (await function.run(request)).state == "done"
    assert [entry["event"] for entry in logs] == [
        "the update is published already",
        "a report did not reach the broker",
    ]
    assert len(function.trainings) == 1


@pytest.mark.parametrize("error", [ZeroDivisionError("1/0 \ud800"), KeyError("x" * 10_000)])
async def test_an_error_of_ours_is_reported_and_the_instance_stays_usable(
    function: RunningFunction, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def raises(*_: Any) -> Shard:
        raise error

    with monkeypatch.context() as patch, capture_logs([merge_contextvars]) as logs:
        patch.setattr(ShardCache, "read", raises)
        report = await function.run(await function.request())
    assert (report.state, report.retryable) == ("failed", True)
    assert report.reason.startswith(type(error).__name__)
    assert len(report.reason) < 1100
    assert report == await function.retained_report()
    assert [(entry["event"], entry["client"]) for entry in logs if entry["log_level"] == "error"] == [
        ("the task failed because of an error of ours", "c1")
    ]
    assert (await function.run(await function.request())).state == "done"
    assert function.connections == ["function-c1"]


async def test_closing_an_instance_ends_its_running_request(function: RunningFunction) -> None:
    function.hold.set()
    request = await function.request()
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(function.instance.run, request)
        assert await asyncio.to_thread(function.begun.wait, WITHIN_S)
        await asyncio.to_thread(function.instance.close)
        report = await asyncio.wrap_future(run)
    assert (report.state, report.retryable) == ("failed", True)
    assert report.reason.startswith("InstanceEnded")
    function.hold.clear()
    assert (await function.run(request)).state == "done"


async def test_an_unreadable_request_is_reported_to_the_broker(function: RunningFunction) -> None:
    """The bridge reads the report from the broker. It needs this because Pub/Sub returns no result."""
    name = RequestName(task=TaskName(client_id="c1", client_type="local", job="job", round=1), attempt=2)
    report = await asyncio.to_thread(
        function.instance.refuse, name, DecodeError("not a valid InvocationRequest: x"), activation="m-1"
    )
    assert await function.retained_report() == report
    assert (report.id, report.state, report.retryable, report.attempt) == (TASK, "failed", False, 2)
    assert "not a valid InvocationRequest: x" in report.reason
