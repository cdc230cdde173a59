"""The access list in docs/mqtt.md: with it a job is trained, and nobody does what is not his."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

import broker
from bridges import Invoker, Runner
from broker import Broker, topics
from broker.errors import Denied
from broker.messages import codec
from broker.messages.invocation import Report
from broker.messages.round import RoundTask
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.brokers import Mosquitto
from tests.support.fake_platforms import FakePlatform
from tests.support.fakes import FakeLearning, running
from tests.support.job_progress import watch_to_end
from tests.support.paths import REPOSITORY

AT_ONCE_S = 20.0
"""Less than the 30 s after which a call is given up."""


@pytest.fixture
async def strict_broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """A broker with the document's access list."""
    text = (REPOSITORY / "docs" / "mqtt.md").read_text(encoding="utf-8")
    (rights,) = [block for block in text.split("```\n") if block.startswith("user server\n")]
    (tmp_path / "rights").write_text(rights, encoding="utf-8")
    server = Mosquitto(tmp_path / "data", f"acl_file {tmp_path / 'rights'}")
    await server.start()
    yield server
    await server.kill()


def as_user(server: Mosquitto, user: str, *, provision: bool = False) -> AbstractAsyncContextManager[Broker]:
    return broker.connect(server.url.replace("//", f"//{user}:any@"), provision=provision, ack_wait_s=1.0)


async def test_everybody_does_his_work_with_the_documented_rights(strict_broker: Mosquitto) -> None:
    async with (
        as_user(strict_broker, "server", provision=True) as server,
        as_user(strict_broker, "bridge-edge") as bridge,
        as_user(strict_broker, "client-00") as device,
        as_user(strict_broker, "observer") as observer,
    ):

        async def train(task: RoundTask) -> None:
            report = Report(task.id, "training", attempt=1)
            await device.put(topics.report("edge", task.client_id), codec.encode(report))
            state = topics.client_state(task.job, task.client_id, task.round, 1, "opt")
            await device.put(state, os.urandom(5 << 20))
            assert await device.get(state) is not None
            await fakes.answer(device, task)

        platform = FakePlatform(lambda task, _: asyncio.ensure_future(train(task)), name="edge")
        await Client(server).register(fakes.clients(1, platform="edge"))
        async with running(serve(server, FakeLearning()), Runner(bridge, Invoker(platform)).run()):
            job = await Client(server).submit(fakes.job(cohort={"clients": 1}))
            kinds = [message.event.what for message in await watch_to_end(Client(observer), job)]
            (site,) = await Client(observer).sites()
            assert [host.state for host in site.hosts] == ["up"]
        assert kinds[-1] == "job.completed"
        assert "client.training" in kinds
        assert [record.id for record in await Client(observer).jobs()] == [job]


FORBIDDEN: dict[str, Callable[[Broker], Awaitable[object]]] = {
    "another's update": lambda bus: bus.publish(topics.update("job-1", 1, "client-01", 1), b"forged"),
    "another's state": lambda bus: bus.put(topics.client_state("job-1", "client-01", 1, 1, "opt"), b"forged"),
    "another's report": lambda bus: bus.put(topics.report("edge", "client-01"), b"forged"),
    "a model": lambda bus: bus.put(topics.model("job-1", "ab" * 32), b"forged"),
    "a job": lambda bus: bus.publish(topics.SUBMIT, b"{}"),
    "a cancellation": lambda bus: bus.publish(topics.cancellation("job-1"), b"{}"),
    "the register": lambda bus: bus.put(topics.client("client-00"), b"forged"),
    "an invocation": lambda bus: bus.publish(topics.invocation("edge", "client-00"), b"forged"),
    "a bridge": lambda bus: bus.put(topics.presence("edge", "b"), b"forged"),
    "an event": lambda bus: bus.publish(topics.progress("job-1", "job", "failed"), b"forged"),
    "a task": lambda bus: bus.publish(topics.task("edge", "client-01"), b"forged"),
}


async def test_a_device_writes_nothing_that_is_not_its_own(strict_broker: Mosquitto) -> None:
    async with (
        as_user(strict_broker, "server", provision=True) as server,
        as_user(strict_broker, "client-00") as device,
        asyncio.timeout(AT_ONCE_S * len(FORBIDDEN)),
    ):
        await server.put(topics.secret("job-1"), b"unguessable")
        for attempt in FORBIDDEN.values():
            with pytest.raises(Denied):
                await attempt(device)
        with pytest.raises(Denied):
            await device._link.publish("fk/index/fl/updates/job-1/1/client-01/1", b"1")  # type: ignore[attr-defined]
        assert await device.get(topics.secret("job-1")) is None
        assert (await server.publish(topics.update("job-1", 1, "client-01", 1), b"its own")).stored
