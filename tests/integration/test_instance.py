"""An instance with a real broker: threads, copies of requests, lost connections, warm state."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

import broker
from broker import topics
from broker.base import Broker
from broker.messages import codec
from broker.messages import tensors as payload
from broker.messages.errors import DecodeError
from broker.messages.invocation import InvocationRequest, Report, RequestName
from broker.messages.job import Model
from broker.messages.round import TaskName
from broker.messages.update import UpdateHeader
from broker.nats.server import NatsServer
from broker.support.tasks import task_group
from client_fn.data import datasets, shards
from client_fn.errors import NoRoute
from client_fn.runtime import instance
from client_fn.runtime.connection import LazyConnection
from client_fn.runtime.executor import TaskExecutor
from client_fn.runtime.instance import Instance
from client_fn.runtime.settings import Settings
from client_fn.training import loop, tensors
from tests.support.function_site import FAR, Site, task_for
from tests.support.values import payload_of

pytestmark = pytest.mark.torch

WITHIN_S = 120.0

TASK = "job.1.c1"
DIGITS = Model(args={"input_size": 64, "hidden": 8, "classes": 10})


@dataclass
class Place:
    """A real broker, a client's shard of digits, and an instance of the client's function.

    Attributes:
        trainings: how often something was trained.
        hold: trainings wait while it is set.
        begun: a training has begun.
        connections: the names of those that connected, the test itself left out.
    """

    site: Site
    server: NatsServer
    function: Instance
    trainings: list[int] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    connections: list[str] = field(default_factory=list)

    @property
    def bus(self) -> Broker:
        return self.site.bus

    async def request(self, attempt: int = 1, **changes: Any) -> InvocationRequest:
        return InvocationRequest(await task_for(self.site, **{"model_configuration": DIGITS, **changes}), attempt)

    async def run(self, request: InvocationRequest, activation: str = "", by: Instance | None = None) -> Report:
        return await asyncio.to_thread((by or self.function).run, request, activation=activation)

    async def reported(self) -> Report:
        """Return the report that the broker retains."""
        found = await self.bus.get(topics.report("local", "c1"))
        assert found is not None
        return codec.decode(Report, found.payload)

    async def update(self, attempt: int = 1) -> tuple[payload.Tensors, UpdateHeader]:
        found = await self.bus.get(topics.update("job", 1, "c1", attempt))
        assert found is not None
        decoded, metadata = payload.decode(found.payload)
        return decoded, UpdateHeader.from_metadata(metadata)


@contextlib.contextmanager
def _counted(made: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    train, connect = loop.train, broker.connect

    def counted_train(*args: Any, **more: Any) -> dict[str, float]:
        made.trainings.append(1)
        made.begun.set()
        while made.hold.is_set():
            more["before_batch"]()
            time.sleep(0.01)
        return train(*args, **more)

    def counted_connect(url: str, *, name: str, **more: Any) -> contextlib.AbstractAsyncContextManager[Broker]:
        made.connections.append(name)
        return connect(url, name=name, **more)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", counted_train)
        patch.setattr(broker, "connect", counted_connect)
        yield


@pytest.fixture
async def place(nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    digits = datasets.load("digits")
    data_loc = f"{tmp_path}/shard.safetensors"
    shards.write(data_loc, digits.train_x[:40], digits.train_y[:40])
    async with broker.connect(nats_server.url) as bus:
        made = Place(Site(bus, data_loc), nats_server, Instance(Settings(nats_server.url, "c1")))
        with _counted(made, monkeypatch):
            yield made
            made.hold.clear()
            await asyncio.to_thread(made.function.close)


async def next_reports(place: Place, until: str) -> list[Report]:
    """The reports that are retained one after the other, until one of that state."""
    found: list[Report] = []
    async with asyncio.timeout(WITHIN_S), place.bus.watch(topics.report("local", topics.ANY)) as values:
        async for value in values:
            found.append(codec.decode(Report, payload_of(value)))
            if found[-1].state == until:
                break
    return found


async def test_an_order_is_trained_published_and_reported(place: Place) -> None:
    place.hold.set()
    request = await place.request(attempt=2)
    async with task_group() as group:
        running = group.create_task(place.run(request, "activation-1"), name="run")
        begun = await next_reports(place, "training")
        place.hold.clear()
        report = await running
    assert begun == [Report(TASK, "training", cold=True, attempt=2, activation="activation-1")]
    assert report == await place.reported() == Report(TASK, "done", cold=True, attempt=2, activation="activation-1")
    arrays, header = await place.update(attempt=2)
    assert (header.samples, header.attempt, header.token) == (40, 2, request.task.token)
    assert arrays["hidden.weight"].shape == (8, 64)


async def test_an_instance_keeps_its_connection_its_model_and_its_data(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(shards, "read", _counting(shards.read, read))
    for attempt in (1, 2, 3):
        assert (await place.run(await place.request(attempt))).state == "done"
    assert place.connections == ["function-c1"]
    assert [thread.name for thread in threading.enumerate()].count("instance") == 1
    assert len(read) == 1
    assert [(await place.update(attempt))[1].fetched > 0 for attempt in (1, 2, 3)] == [True, False, False]


async def test_only_the_first_order_is_cold(place: Place) -> None:
    colds: list[bool] = []
    for attempt in (1, 2):
        place.hold.set()
        async with task_group() as group:
            group.create_task(place.run(await place.request(attempt)), name="run")
            reports = [report for report in await next_reports(place, "training") if report.attempt == attempt]
            colds += [report.cold for report in reports]
            place.hold.clear()
    assert colds == [True, False]


async def test_a_copy_of_an_order_that_is_done_gets_the_same_answer(place: Place) -> None:
    request = await place.request()
    first = await place.run(request, "activation-1")
    await place.server.kill()
    assert await place.run(request, "activation-2") == first
    assert len(place.trainings) == 1


async def test_a_copy_of_an_order_that_is_being_done_waits_for_it(place: Place) -> None:
    place.hold.set()
    request = await place.request()
    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(place.function.run, request, activation=f"activation-{i}") for i in range(4)]
        assert await asyncio.to_thread(place.begun.wait, WITHIN_S)
        place.hold.clear()
        reports = {await asyncio.wrap_future(run) for run in runs}
    assert [report.state for report in reports] == ["done"]
    assert len(place.trainings) == 1


async def test_who_gives_up_waiting_leaves_the_work_to_others(place: Place) -> None:
    place.hold.set()
    request = await place.request()
    async with task_group() as group:
        own = LazyConnection(place.server.url, "own", group)
        executor = TaskExecutor("c1", own, group, time.time)
        waiting = [group.create_task(executor.execute(request, "", None), name=f"waiting {i}") for i in range(2)]
        assert await asyncio.to_thread(place.begun.wait, WITHIN_S)
        waiting[0].cancel()
        place.hold.clear()
        assert (await waiting[1]).report.state == "done"
        own.close()
    assert len(place.trainings) == 1


async def test_another_instance_finds_the_update_and_trains_nothing(place: Place) -> None:
    request = await place.request()
    await place.run(request, "activation-1")
    with Instance(place.function.settings) as other:
        report = await place.run(request, "activation-2", other)
    assert report == await place.reported() == Report(TASK, "done", cold=True, attempt=1, activation="activation-2")
    assert len(place.trainings) == 1


@pytest.mark.parametrize("other", ["garbage", "another answer"])
async def test_what_lies_in_the_update_s_place_costs_an_attempt(place: Place, other: str) -> None:
    request = await place.request()
    if other == "garbage":
        await place.bus.publish(topics.update("job", 1, "c1", 1), b"garbage")
    else:
        await place.run(request)
        request = await place.request(token="another round's")  # noqa: S106 (nobody's)
    report = await place.run(request)
    assert (report.state, report.retryable) == ("failed", True)
    assert report.reason.startswith("TopicTaken")
    assert (await place.run(msgspec.structs.replace(request, attempt=2))).state == "done"


async def test_an_order_whose_time_is_over_is_not_begun(place: Place) -> None:
    report = await place.run(await place.request(deadline_s=time.time() - 1))
    assert (report.state, report.retryable) == ("failed", False)
    assert report.reason.startswith("LeaseOver")
    assert report == await place.reported()
    assert (place.trainings, await place.bus.get(topics.update("job", 1, "c1", 1))) == ([], None)


async def test_another_client_s_order_is_refused(place: Place) -> None:
    request = await place.request(client_id="c2")
    report = await place.run(request)
    assert (report.state, report.retryable) == ("failed", False)
    assert report.reason.startswith("WrongClient: a task for c2, and this is the function of c1")
    with Instance(Settings(place.server.url)) as anybody_s:
        assert (await place.run(request, by=anybody_s)).state == "done"


async def test_a_training_that_is_too_slow_ends_at_the_deadline(place: Place) -> None:
    place.hold.set()
    late = threading.Event()
    # The deadline comes when the training has begun, however long that took.
    with Instance(place.function.settings, lambda: FAR if late.is_set() else 0.0) as slow:
        async with task_group() as group:
            running = group.create_task(place.run(await place.request(deadline_s=FAR), by=slow), name="run")
            assert await asyncio.to_thread(place.begun.wait, WITHIN_S)
            late.set()
            report = await running
    assert (report.state, report.retryable) == ("failed", False)
    assert report.reason.startswith("LeaseOver")


@pytest.mark.slow
async def test_a_model_that_never_returns_does_not_keep_its_caller(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def hangs(*_: Any, **__: Any) -> dict[str, float]:
        place.begun.set()
        released.wait(WITHIN_S)
        return {}

    # Whatever takes long the first time is done before the clock runs.
    assert (await place.run(await place.request())).state == "done"
    place.begun.clear()
    monkeypatch.setattr(loop, "train", hangs)
    monkeypatch.setattr(instance, "GRACE_S", 0.1)
    begin_s = time.monotonic()
    report = await place.run(await place.request(attempt=2, deadline_s=time.time() + 5))
    took_s = time.monotonic() - begin_s
    released.set()
    assert (report.state, report.retryable) == ("failed", False)
    assert place.begun.is_set()
    assert took_s < WITHIN_S / 2


async def test_a_broker_out_of_reach_is_a_failure_that_may_pass(place: Place) -> None:
    requests = [await place.request(attempt) for attempt in (1, 2)]
    await place.server.kill()
    report = await place.run(requests[0])
    assert (report.state, report.retryable, report.attempt) == ("failed", True, 1)
    assert report.reason.startswith("ConnectFailed")
    await place.server.start()
    assert (await place.run(requests[1])).state == "done"


async def test_a_connection_that_is_lost_between_two_orders_is_opened_again(place: Place) -> None:
    requests = [await place.request(attempt) for attempt in (1, 2)]
    assert (await place.run(requests[0])).state == "done"
    await place.server.kill()
    await place.server.start()
    assert (await place.run(requests[1])).state == "done"
    assert (await place.update(attempt=2))[1].fetched == 0


async def test_a_report_that_can_t_be_told_fails_no_task(place: Place) -> None:
    request = await place.request(client_type="No_Platform")
    with capture_logs() as logs:
        report = await place.run(request)
    assert report.state == "done"
    unheard = [entry for entry in logs if entry["event"] == "a report did not reach the broker"]
    assert [entry["state"] for entry in unheard] == ["training", "done"]
    assert {entry["log_level"] for entry in unheard} == {"warning"}
    # A copy is another chance to tell it.
    with capture_logs() as logs:
        assert (await place.run(request)).state == "done"
    assert [entry["event"] for entry in logs] == [
        "the update is published already",
        "a report did not reach the broker",
    ]
    assert len(place.trainings) == 1


@pytest.mark.parametrize("error", [ZeroDivisionError("1/0 \ud800"), SystemExit(3), KeyError("x" * 10_000)])
async def test_whatever_a_model_raises_is_reported_and_the_instance_lives_on(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def raises(*_: Any, **__: Any) -> dict[str, float]:
        raise error

    with monkeypatch.context() as patch, capture_logs([merge_contextvars]) as logs:
        patch.setattr(loop, "train", raises)
        report = await place.run(await place.request())
    assert (report.state, report.retryable) == ("failed", True)
    assert report.reason.startswith(type(error).__name__)
    assert len(report.reason) < 1100
    assert report == await place.reported()
    assert [(entry["event"], entry["client"]) for entry in logs if entry["log_level"] == "error"] == [
        ("the function failed", "c1")
    ]
    assert (await place.run(await place.request())).state == "done"
    assert place.connections == ["function-c1"]


async def test_a_bundle_gives_the_same_update_as_the_broker(place: Place) -> None:
    request = await place.request()
    await place.run(request)
    arrays, header = await place.update()
    found = await place.bus.get(request.task.model.topic)
    assert found is not None
    with Instance(Settings()) as apart:
        given = {request.task.model.topic: found.payload}
        report, written = await asyncio.to_thread(apart.execute, request, given, activation="a")
        copy = await asyncio.to_thread(apart.execute, request, given)
        with pytest.raises(NoRoute):
            async with task_group() as group, LazyConnection("", "nobody", group).acquire():
                pass
    assert report == Report(TASK, "done", cold=True, attempt=1, activation="a")
    assert copy == (report, written)
    assert len(place.trainings) == 2
    decoded, metadata = payload.decode(written[topics.update("job", 1, "c1", 1)])
    assert {name: array.tobytes() for name, array in decoded.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }
    mine = UpdateHeader.from_metadata(metadata)
    assert msgspec.structs.replace(mine, seconds={}) == msgspec.structs.replace(header, seconds={})
    assert header.state is not None
    state = await place.bus.get(header.state.topic)
    assert state is not None
    assert tensors.from_bytes(written[header.state.topic]).keys() == tensors.from_bytes(state.payload).keys()
    assert written[header.state.topic] == state.payload


async def test_closing_gives_up_what_is_under_way(place: Place) -> None:
    place.hold.set()
    request = await place.request()
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(place.function.run, request)
        assert await asyncio.to_thread(place.begun.wait, WITHIN_S)
        await asyncio.to_thread(place.function.close)
        report = await asyncio.wrap_future(run)
    assert (report.state, report.retryable) == ("failed", True)
    assert report.reason.startswith("InstanceEnded")
    place.hold.clear()
    assert (await place.run(request)).state == "done"


RIGHTS = """
authorization {
  users: [
    { user: "fedkeeper", password: "admin" },
    { user: "c1", password: "s3cret", permissions: {
        publish: ["fl.updates.*.*.c1.*", "fl.state.*.c1.*.*", "fl.reports.*.c1",
                  "$JS.API.DIRECT.GET.FEDKEEPER_MODELS.fl.models.>",
                  "$JS.API.DIRECT.GET.FEDKEEPER_STATE.fl.state.*.c1.>"],
        subscribe: ["_INBOX_c1.>"] } },
  ]
}
"""


async def test_a_user_with_its_own_client_s_rights_alone_will_do(
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
            found = await bus.get(topics.report("local", "c1"))
            assert found is not None
            assert codec.decode(Report, found.payload).attempt == 2
    finally:
        await server.kill()


def _counting(real: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    def counted(*args: Any, **more: Any) -> Any:
        calls.append(args)
        return real(*args, **more)

    return counted


async def test_an_order_that_can_t_be_read_is_reported_to_the_broker(place: Place) -> None:
    """So the bridge hears of it whatever its platform tells; Pub/Sub tells nothing."""
    name = RequestName(task=TaskName(client_id="c1", client_type="local", job="job", round=1), attempt=2)
    report = await asyncio.to_thread(
        place.function.refuse, name, DecodeError("not a valid InvocationRequest: x"), activation="m-1"
    )
    assert await place.reported() == report
    assert (report.id, report.state, report.retryable, report.attempt) == (TASK, "failed", False, 2)
    assert "not a valid InvocationRequest: x" in report.reason
