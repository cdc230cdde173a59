"""A job whose server dies at a write that the test chooses, and is replaced."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

import broker
from broker import topics
from broker.base import Broker, Value
from broker.messages import codec
from broker.messages.job_record import JobRecord
from broker.messages.round import RoundTask, nonce, token
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running

ROUNDS: Final = 3
SECRETS: Final = ("of the first server", "of the second server")
WITHIN_S: Final = 120.0


class Crash(BaseException):
    """The server is gone; nothing may catch this."""


def dying(bus: Broker, writes: int) -> Broker:
    """The same connection, which takes the server down at its n-th write: before it, so nothing is written."""
    left = writes

    def fragile(write: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def guarded(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return await write(*args, **more)

        return guarded

    for name in ("publish", "put", "purge"):
        setattr(bus, name, fragile(getattr(bus, name)))
    return bus


async def end_of(fabric: Client, job: str) -> list[str]:
    """The ids of what was said of a job until its end, such as `update.counted.1.client-03`."""
    async with asyncio.timeout(WITHIN_S):
        return [one.id.removeprefix(f"{job}.") async for one in fabric.watch(job)]


async def train(url: str, writes: int | None) -> tuple[str, Fleet, list[str], bool]:
    """A job of three rounds, with a server that dies at a write and one that takes over; whether it did die."""
    async with broker.connect(url) as bus, broker.connect(url) as servers:
        fabric, fleet, died = Client(bus), Fleet(bus), False
        await fabric.register(fakes.clients(6))
        job = fakes.job(stop={"rounds": ROUNDS}, cohort={"grace_s": 0.0})
        async with running(fleet.serve()):
            await bus.publish(topics.submission("crashing"), msgspec.json.encode(job))
            if writes is not None:
                try:
                    async with running(serve(dying(servers, writes), FakeLearning(), secret=lambda: SECRETS[0])):
                        await end_of(fabric, "crashing")
                        await over(bus, "crashing")
                except Crash:
                    died = True
            async with running(serve(bus, FakeLearning(), secret=lambda: SECRETS[1])):
                said = await end_of(fabric, "crashing")
                await over(bus, "crashing")
        record = await fabric.job("crashing")
        assert record.model is not None
        assert await bus.get(topics.secret("crashing")) is None, "the job is over, and its secret lies there"
        secret = SECRETS[1] if writes is None else SECRETS[0]
        assert [task.id for task in fleet.tasks if task.token != token_of(task, secret)] == []
        return record.model.sha256, fleet, said, died


def token_of(task: RoundTask, secret: str) -> str:
    """The task's token in a job that has this secret."""
    return token(nonce(secret, task.job, task.round), task.client_id)


async def over(bus: Broker, job: str) -> None:
    """Until a job's server has nothing more to do for it, as far as the record tells."""
    async with bus.watch(topics.job_record(job)) as values:
        async for value in values:
            if isinstance(value, Value) and codec.decode(JobRecord, value.payload).is_over:
                return
